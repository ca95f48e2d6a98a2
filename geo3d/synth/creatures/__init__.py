"""A generator of articulated creatures whose correspondences are known.

creature = generate_creature("quadruped", seed=3)
walking, resting = pose(creature, seed=1), pose(creature, seed=2)   # vertex i matches vertex i
cousin = vary_proportions(creature, seed=1)                         # and on the cousin too
"""

from geo3d.synth.creatures.generate import (
    KINDS,
    Creature,
    Remeshed,
    generate_creature,
    pose,
    remeshed,
    vary_proportions,
)

__all__ = [
    "KINDS",
    "Creature",
    "Remeshed",
    "generate_creature",
    "pose",
    "remeshed",
    "vary_proportions",
]
