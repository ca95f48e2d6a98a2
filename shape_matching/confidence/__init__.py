"""How sure a map is: signals of a finished map, and the probability that it is right."""
