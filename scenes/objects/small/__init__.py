"""The small pipeline that ships with the package: its data, its networks, how they are trained."""
