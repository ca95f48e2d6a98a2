"""Layouts from the files of others: data sets of driving, maps and models of cities."""
