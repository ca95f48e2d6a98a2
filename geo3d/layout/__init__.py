"""Scenes as boxes with classes, in metres: what synth makes and `scenes.urban` builds."""
