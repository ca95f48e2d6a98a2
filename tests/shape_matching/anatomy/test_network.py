"""The network of places: what it sees, its file, its training, the bodies it learns from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anatomy_helpers import SMALL, ready, training, write_bodies
from helpers import moved, rotation

from geo3d import checkpoints
from geo3d.errors import CheckpointError, InputError
from geo3d.work.examples import example_path, write_example
from shape_matching.anatomy import data
from shape_matching.anatomy.data import BodiesConfig, read_body
from shape_matching.anatomy.network import (
    ANATOMY,
    Anatomy,
    AnatomyConfig,
    can_see,
    places,
    view,
)
from shape_matching.anatomy.training import train_anatomy
from shape_matching.search.prepare import prepare


def drawn(seed: int = 0) -> Anatomy:
    return Anatomy(SMALL, torch.Generator().manual_seed(seed))


def test_places_do_not_depend_on_where_a_shape_lies() -> None:
    shape = ready(0)
    turned = prepare(moved(shape.mesh, rotation(4)), 40, 150, "auto", torch.device("cpu"))
    here, there = places(shape, drawn()), places(turned, drawn())
    assert here.shape == (shape.mesh.n_vertices, 3)
    assert torch.allclose(here, there, atol=2e-3)


def test_samples_see_nearly_what_all_vertices_see() -> None:
    shape, network = ready(0), drawn()
    seen = view(shape, SMALL, SMALL.points)
    with torch.no_grad():
        some = network(seen.descriptors, seen.surface)
    everywhere = places(shape, network)[shape.samples[: SMALL.points]]
    assert float((some - everywhere).norm(dim=1).mean()) < 0.1 * float(everywhere.std())


def test_shapes_with_too_few_functions_are_not_seen() -> None:
    shape = ready(0)
    assert can_see(shape, SMALL)
    assert not can_see(shape, AnatomyConfig())  # too few eigenfunctions


def test_a_file_brings_the_same_network_back(tmp_path: Path) -> None:
    network = drawn()
    digest = ANATOMY.save(tmp_path / "places.safetensors", network)
    found = ANATOMY.load(tmp_path / "places.safetensors")
    assert found.info["sha256"] == digest and found.config == SMALL
    assert torch.allclose(places(ready(0), found), places(ready(0), network), atol=1e-3)
    checkpoints.save(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError) as caught:
        ANATOMY.load(tmp_path / "other.safetensors")
    assert caught.value.code == "anatomy.not_a_network"


def test_training_comes_nearer_to_the_places(tmp_path: Path) -> None:
    write_bodies(tmp_path / "data")
    config = training(tmp_path / "data", steps=60, learning_rate=1e-2, validate_every=1)
    gaps: list[float] = []

    def log(numbers: Mapping[str, Any]) -> None:
        if "gap_mean" in numbers:
            gaps.append(numbers["gap_mean"])

    numbers = train_anatomy(config, tmp_path / "out", log_metrics=log)
    assert numbers["bodies"] == 7 and numbers["held_out_bodies"] == 1
    assert numbers["gap_mean"] < 0.9 * gaps[0]
    assert ANATOMY.load(tmp_path / "out" / "anatomy.safetensors").info["steps"] == 60


def test_too_few_bodies_are_refused(tmp_path: Path) -> None:
    write_bodies(tmp_path, 2)
    with pytest.raises(InputError) as caught:
        train_anatomy(training(tmp_path), tmp_path / "out")
    assert caught.value.code == "work.too_few_examples"


def test_a_damaged_body_is_refused(tmp_path: Path) -> None:
    path = example_path(tmp_path, 0)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError) as caught:
        read_body(path, SMALL)
    assert caught.value.code == "work.bad_example"


def test_bodies_know_their_places(tmp_path: Path) -> None:
    config = BodiesConfig(1, network=SMALL)
    write_example(partial(data._body, config), tmp_path, 0)
    body = read_body(example_path(tmp_path, 0), SMALL)
    fixed = data.fixed_creature().rest.vertices
    extent = np.ptp(fixed, axis=0).max()
    assert body.places.shape == (120, 3) and float(body.known.float().mean()) > 0.6
    assert float(body.places[body.known].abs().max()) < 2 * extent
