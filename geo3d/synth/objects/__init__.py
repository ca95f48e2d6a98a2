"""Procedural objects: furniture, vehicles, houses, vessels, creatures, with parts and colours."""
