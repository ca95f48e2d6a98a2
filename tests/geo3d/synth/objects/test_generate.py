"""Every kind: closed parts in the right cube, the same again; other names are refused."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.errors import ConfigError
from geo3d.synth.objects.generate import EXTENT, FAMILIES, KINDS, generate_object
from geo3d.synth.objects.solids import Solid


def open_edges(solid: Solid) -> int:
    directed = solid.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there, count = np.unique(directed, axis=0, return_counts=True)
    back = np.unique(directed[:, ::-1], axis=0)
    return int((count != 1).sum()) + (len(there) if not np.array_equal(there, back) else 0)


def check(kind: str, seed: int) -> None:
    made = generate_object(kind, seed)
    low, high = made.mesh.vertices.min(0), made.mesh.vertices.max(0)
    assert (high - low).max() == pytest.approx(EXTENT)
    np.testing.assert_allclose(low + high, 0, atol=1e-12)
    for p in made.parts:
        assert open_edges(p.solid) == 0, (kind, seed, p.name)
        assert p.solid.volume() > 0, (kind, seed, p.name)
        assert p.name and p.colors.shape == p.solid.vertices.shape
    assert made.mesh.n_faces == len(made.part_ids) == sum(len(p.solid.faces) for p in made.parts)
    assert made.part_ids.max() == len(made.parts) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_closed_and_centred(kind: str) -> None:
    check(kind, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_seeds_are_closed_and_centred(kind: str) -> None:
    for seed in range(100, 140 if kind in FAMILIES["creatures"] else 300):
        check(kind, seed)


@pytest.mark.parametrize("kind", ["chair", "vase", "bird"])
def test_a_seed_is_an_object(kind: str) -> None:
    one, again, other = (generate_object(kind, seed).mesh for seed in (5, 5, 6))
    assert one.content_hash() == again.content_hash() != other.content_hash()
    assert one.vertex_colors is not None and again.vertex_colors is not None
    assert np.array_equal(one.vertex_colors, again.vertex_colors)


def test_there_are_many_kinds() -> None:
    assert len(set(KINDS)) == len(KINDS) >= 15


def test_things_stand_upright_and_look_to_the_viewer() -> None:
    lamp = generate_object("lamp", 0)
    shade = next(p for p in lamp.parts if p.name == "shade")
    base = next(p for p in lamp.parts if p.name == "base")
    assert shade.solid.vertices[:, 2].mean() > base.solid.vertices[:, 2].mean()
    car = generate_object("car", 0)
    light = next(p for p in car.parts if p.name == "headlight")
    assert light.solid.vertices[:, 1].mean() < -0.4


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="teapot") as caught:
        generate_object("dragon", 0)
    assert caught.value.code == "objects.unknown_kind"
