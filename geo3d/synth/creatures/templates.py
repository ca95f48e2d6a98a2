"""Body plans: skeletons with random proportions for each kind of creature.

Notation as in `geo3d.synth.creatures.skeleton`.  Every plan draws its proportions from the
generator in a fixed order, so a seed gives the same skeleton everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geo3d.synth.creatures.skeleton import Bone, Limits, Plan

SPINE: Limits = ((-0.3, -0.3, -0.25), (0.35, 0.3, 0.25))
NECK: Limits = ((-0.5, -0.7, -0.35), (0.5, 0.7, 0.35))
TAIL: Limits = ((-0.6, -0.6, -0.3), (0.6, 0.6, 0.3))
ARM: Limits = ((-1.3, -0.6, -0.7), (0.7, 0.6, 1.1))
ELBOW: Limits = ((-1.5, -0.5, -0.1), (0.1, 0.5, 0.4))
WRIST: Limits = ((-0.5, -0.3, -0.3), (0.5, 0.3, 0.3))
THIGH: Limits = ((-1.3, -0.3, -0.05), (0.7, 0.3, 0.5))
KNEE: Limits = ((0.0, 0.0, 0.0), (1.5, 0.0, 0.0))
ANKLE: Limits = ((-0.4, -0.3, 0.0), (0.5, 0.3, 0.0))
FORELEG: Limits = ((-0.9, -0.1, -0.05), (0.8, 0.1, 0.25))
WING: Limits = ((-0.5, -0.6, -0.9), (0.5, 0.6, 0.9))
TENTACLE: Limits = ((-0.6, -0.5, -0.6), (0.6, 0.5, 0.6))


def biped(rng: np.random.Generator) -> list[Bone]:
    """A being on two legs: from human to bear, monkey or kangaroo-like."""
    u, plan = rng.uniform, Plan()
    girth, leg, arm, beast = u(0.85, 1.25), u(0.28, 0.42), u(0.23, 0.34), u() < 0.5
    hips = np.array([0, 2 * leg + 0.06, 0])
    plan.add("pelvis", "", (0, 0.1, 0), (0.105 * girth, 0.105 * girth), start=hips, flat=(1.2, 0.9))
    waist = (0.1 * girth, u(0.1, 0.13) * girth)
    plan.add("waist", "pelvis", (0, u(0.11, 0.2), 0), waist, flat=(1.1, 0.85), limits=SPINE)
    top = plan.add(
        "chest", "waist", (0, 0.15, 0.01), (0.12 * girth, 0.1), flat=(1.3, 0.85), limits=SPINE
    )
    plan.add("neck", "chest", (0, u(0.19, 0.25), 0.03), (0.055, 0.042), limits=NECK)
    size = u(0.85, 1.25)
    _head(plan, rng, np.array([0, 0.09, 0.03]) * size, size, beast=beast)
    slope = u(0.35, 0.9)
    out = np.array([np.cos(slope), -np.sin(slope), 0])
    shoulder = top + _xyz(0.125 * girth, -0.02, 0)
    thick = u(0.85, 1.2)
    radii = (0.052 * thick, 0.043 * thick)
    plan.add("upper_arm", "chest", arm * out, radii, start=shoulder, limits=ARM, pair=True)
    radii = (0.043 * thick, 0.034 * thick)
    plan.add(
        "lower_arm", "upper_arm", arm * (out + _xyz(0, 0, 0.2)), radii, limits=ELBOW, pair=True
    )
    hand = u(0.09, 0.14) * out
    plan.add("hand", "lower_arm", hand, (0.04, 0.034), flat=(1.25, 0.8), limits=WRIST, pair=True)
    hip = hips + _xyz(0.085 * girth, -0.01, 0)
    radii = (0.085 * girth, 0.058)
    plan.add("thigh", "pelvis", (0.04, -leg, 0.02), radii, start=hip, limits=THIGH, pair=True)
    plan.add("shin", "thigh", (0.01, -leg, -0.03), (0.056, 0.04), limits=KNEE, pair=True)
    foot = (0.015, -0.025, u(0.12, 0.19))
    plan.add("foot", "shin", foot, (0.042, 0.034), flat=(1.2, 0.9), limits=ANKLE, pair=True)
    if beast:
        _tail(plan, "pelvis", hips + _xyz(0, 0.03, -0.08), np.array([0, -0.08, -0.13]), rng)
    return plan.bones


def quadruped(rng: np.random.Generator) -> list[Bone]:
    """A being on four legs: from dachshund to horse and giraffe."""
    u, plan = rng.uniform, Plan()
    length, leg, girth = u(0.14, 0.28), u(0.12, 0.32), u(0.8, 1.25)
    hips = np.array([0, 2 * leg + 0.12, -1.5 * length])
    r = 0.125 * girth
    plan.add("pelvis", "", (0, 0.01, length), (r, u(0.95, 1.1) * r), start=hips)
    radii = (r, u(1.0, 1.15) * r)
    plan.add("belly", "pelvis", (0, -0.01, length), radii, flat=(0.95, 1.05), limits=SPINE)
    chest = plan.add(
        "chest", "belly", (0, 0.02, 0.8 * length), (1.1 * r, r), flat=(0.95, 1.1), limits=SPINE
    )
    tall = u(0.12, 0.36) * np.array([0, np.sin(rise := u(0.5, 1.2)), np.cos(rise)])
    base = chest + _xyz(0, 0.03, 0.02)
    plan.add("neck", "chest", tall, (0.085, 0.068), start=base, limits=NECK)
    plan.add("nape", "neck", 0.7 * tall, (0.068, 0.06), limits=NECK)
    size = u(0.85, 1.2)
    _head(plan, rng, np.array([0, 0.01, 0.11]) * size, 0.85 * size, beast=True)
    thick = u(0.8, 1.2)
    for name, z, lean in (("fore", chest[2] - 0.03, 0.0), ("hind", hips[2] + 0.02, 0.05)):
        hip = (0.085 * girth, hips[1] - 0.03, z)
        step, radii = (0.02, -leg, lean), (0.075 * thick, 0.05 * thick)
        parent = "chest" if name == "fore" else "pelvis"
        plan.add(f"{name}_thigh", parent, step, radii, start=hip, limits=FORELEG, pair=True)
        step, radii = (0.0, -leg, -1.6 * lean), (0.048 * thick, 0.036)
        plan.add(f"{name}_shin", f"{name}_thigh", step, radii, limits=KNEE, pair=True)
        step = (0.0, -0.02, u(0.06, 0.1))
        plan.add(f"{name}_foot", f"{name}_shin", step, (0.042, 0.038), limits=ANKLE, pair=True)
    _tail(plan, "pelvis", hips + _xyz(0, 0.03, -0.07), np.array([0, u(-0.1, 0.06), -0.14]), rng)
    return plan.bones


def bird(rng: np.random.Generator) -> list[Bone]:
    """A bird with spread wings: from sparrow to heron."""
    u, plan = rng.uniform, Plan()
    leg, girth, lean = u(0.12, 0.3), u(0.85, 1.15), u(0.3, 0.9)
    hips = np.array([0, 2 * leg + 0.14, -0.1])
    forward = np.array([0, np.sin(lean), np.cos(lean)])
    radii = (0.12 * girth, 0.15 * girth)
    plan.add("rump", "", 0.17 * forward, radii, start=hips)
    radii = (0.15 * girth, 0.1)
    breast = plan.add("breast", "rump", 0.14 * forward, radii, limits=SPINE)
    long = u(0.1, 0.26)
    plan.add("neck", "breast", (0, 0.75 * long, 0.5 * long), (0.075, 0.055), limits=NECK)
    plan.add("nape", "neck", (0, long, 0.1 * long), (0.055, 0.052), limits=NECK)
    plan.add("head", "nape", (0, 0.03, 0.07), (0.075, 0.07), limits=NECK)
    plan.add("beak", "head", (0, -0.02, u(0.1, 0.22)), (0.045, 0.022))
    span, chord = u(0.22, 0.34), u(1.3, 1.9)
    shoulder = breast - 0.09 * forward + _xyz(0.1 * girth, 0.03, 0)
    for name, parent, reach, radii in (
        ("wing_root", "breast", (0.75 * span, 0.05, -0.02), (0.06, 0.062)),
        ("wing", "wing_root", (span, 0.03, -0.04), (0.062, 0.055)),
        ("wing_tip", "wing", (span, -0.02, -0.1), (0.055, 0.034)),
    ):
        start = shoulder if name == "wing_root" else None
        plan.add(
            name, parent, reach, radii, start=start, flat=(chord, 0.55), limits=WING, pair=True
        )
    fan, rear = u(0.15, 0.32), hips - 0.05 * forward
    plan.add(
        "fan", "rump", (0, -0.02, -fan), (0.07, 0.075), start=rear, flat=(1.5, 0.5), limits=TAIL
    )
    hip = hips + _xyz(0.07 * girth, -0.05, 0.06)
    plan.add("thigh", "rump", (0.02, -leg, 0.05), (0.06, 0.036), start=hip, limits=THIGH, pair=True)
    plan.add("shank", "thigh", (0.0, -leg, -0.07), (0.033, 0.028), limits=KNEE, pair=True)
    plan.add("foot", "shank", (0.01, -0.02, 0.12), (0.036, 0.03), limits=ANKLE, pair=True)
    return plan.bones


def octopus(rng: np.random.Generator) -> list[Bone]:
    """A soft body with three to five pairs of arms."""
    u, plan = rng.uniform, Plan()
    size, arms = u(0.85, 1.2), int(rng.integers(3, 6))
    plan.add("body", "", (0, 0.1, 0), (0.15 * size, 0.13 * size), start=(0, 0.3, 0))
    step, radii = np.array([0, u(0.12, 0.2), u(-0.16, -0.04)]), (0.14 * size, 0.17 * size)
    plan.add("mantle", "body", step, radii, limits=SPINE)
    plan.add("crown", "mantle", 0.8 * step, (0.16 * size, 0.07 * size), limits=SPINE)
    eye = (0.1 * size, 0.46, 0.09 * size)
    plan.add("eye", "body", (0.03, 0.015, 0.03), (0.05, 0.045), start=eye, pair=True)
    reach, droop, thick = u(0.13, 0.2), u(0.2, 0.7), u(0.85, 1.1)
    for i in range(arms):
        angle = np.pi * (i + 0.5) / arms
        out = np.array([np.sin(angle), 0, np.cos(angle)])
        parent, start = "body", np.array([0, 0.27, 0]) + 0.1 * size * out
        for j in range(4):
            step = reach * out * np.cos(droop) + _xyz(0, reach * np.sin(droop) * (j - 1.6) / 2, 0)
            radii = ((0.065 - 0.01 * j) * thick, (0.055 - 0.01 * j) * thick)
            name = f"arm{i}_{j}"
            plan.add(
                name,
                parent,
                step,
                radii,
                start=start if j == 0 else None,
                limits=TENTACLE,
                pair=True,
            )
            parent = name
    return plan.bones


def critter(rng: np.random.Generator) -> list[Bone]:
    """An invented being: a random spine with random pairs of limbs."""
    u, plan = rng.uniform, Plan()
    tilt, girth = u(-0.05, 0.9), u(0.09, 0.14)
    segments = int(rng.integers(2, 5))
    forward, height = np.array([0, np.sin(tilt), np.cos(tilt)]), u(0.35, 0.6)
    spine, where = [], np.array([0, height, -0.2])
    for i in range(segments):
        name, grow = f"spine{i}", u(0.8, 1.25)
        where = plan.add(
            name,
            spine[-1] if spine else "",
            u(0.12, 0.2) * forward,
            (girth, girth := float(np.clip(girth * grow, 0.08, 0.16))),
            start=None if spine else where,
            limits=SPINE,
        )
        spine.append(name)
    plan.add("neck", spine[-1], u(0.17, 0.27) * np.array([0, 0.7, 0.7]), (0.075, 0.06), limits=NECK)
    size = u(0.8, 1.3)
    _head(plan, rng, np.array([0, 0.04, 0.1]) * size, size, beast=u() < 0.7)
    pairs = int(rng.integers(1, min(segments, 3) + 1))
    for i, segment in enumerate(np.linspace(0, segments - 1, pairs).round().astype(int)):
        bone = next(b for b in plan.bones if b.name == spine[segment])
        _limb(plan, f"limb{i}", bone, rng)
    if u() < 0.7:
        _tail(plan, spine[0], plan.bones[0].head, np.array([0, -0.05, -0.14]), rng)
    return plan.bones


TEMPLATES: dict[str, Callable[[np.random.Generator], list[Bone]]] = {
    "biped": biped,
    "quadruped": quadruped,
    "bird": bird,
    "octopus": octopus,
    "critter": critter,
}


def _xyz(*offset: float | int) -> np.ndarray:
    return np.array(offset, np.float64)


def _head(
    plan: Plan, rng: np.random.Generator, step: np.ndarray, size: float, *, beast: bool
) -> None:
    """Add a head to the last bone of the middle line; a beast has a snout and ears."""
    parent = plan.bones[-1].name
    end = plan.add("head", parent, step, (0.085 * size, 0.09 * size), limits=NECK)
    snout, ear = rng.uniform(0.06, 0.16), rng.uniform(0.07, 0.17)
    if not beast:
        return
    start = end + _xyz(0, -0.025 * size, 0.03 * size)
    plan.add("snout", "head", (0, -0.03, snout), (0.06 * size, 0.045 * size), start=start)
    start = end + _xyz(0.05 * size, 0.05 * size, -0.02)
    tip = ear * np.array([0.5, 0.85, -0.1])
    plan.add("ear", "head", tip, (0.042, 0.032), start=start, flat=(1.1, 0.8), pair=True)


def _tail(
    plan: Plan, parent: str, start: np.ndarray, step: np.ndarray, rng: np.random.Generator
) -> None:
    segments, thick = int(rng.integers(2, 5)), rng.uniform(0.04, 0.06)
    for i in range(segments):
        radii = (thick, thick := max(0.032, 0.85 * thick))
        begin = start if i == 0 else None
        plan.add(f"tail{i}", parent, step, radii, start=begin, limits=TAIL)
        parent = f"tail{i}"
        step = step * [1, 0.6, 1]


def _limb(plan: Plan, name: str, bone: Bone, rng: np.random.Generator) -> None:
    """Add a pair of limbs of two or three segments to the side of a spine bone."""
    reach, raised, thick = rng.uniform(0.2, 0.34), rng.uniform(-0.9, 0.4), rng.uniform(0.045, 0.065)
    out = np.array([np.cos(raised), np.sin(raised), 0])
    start = (bone.head + bone.tail) / 2 + 0.6 * bone.radii[0] * out
    parent = bone.group
    for j in range(int(rng.integers(2, 4))):
        radii = (thick, thick := max(0.036, 0.8 * thick))
        plan.add(
            f"{name}_{j}",
            parent,
            reach * out,
            radii,
            start=start if j == 0 else None,
            limits=ARM,
            pair=True,
        )
        parent = f"{name}_{j}"
        # limbs bend towards the ground
        out = out + _xyz(-0.15, -0.45, rng.uniform(-0.1, 0.3))
        out /= np.linalg.norm(out)
