"""Generators of data from nothing: creatures, objects, streets, walls."""
