"""The corrector: what it leaves alone, what it sees, its files, its data and its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corrector_helpers import SMALL, ready, training, turned_pair, write_examples
from helpers import moved, rotation
from torch import Tensor

from geo3d import checkpoints
from geo3d.config import load_config
from geo3d.errors import Cancelled, CheckpointError, InputError, MeshError, NumericalError
from geo3d.mesh.mesh import Mesh
from geo3d.progress import ignore_progress
from geo3d.work.examples import example_path
from shape_matching.config import MatchConfig
from shape_matching.corrector.corrector import (
    CORRECTOR,
    Corrector,
    CorrectorConfig,
    corrected,
    reverse,
    view,
)
from shape_matching.corrector.data import (
    CorrectorDataConfig,
    make_examples,
    read_pair,
)
from shape_matching.corrector.improve import ignore_map, improved
from shape_matching.corrector.training import (
    CorrectorTrainingConfig,
    held_out_errors,
    train_corrector,
    usable,
)
from shape_matching.search.prepare import Prepared


def small_corrector(seed: int = 0) -> Corrector:
    return Corrector(SMALL, torch.Generator().manual_seed(seed)).requires_grad_(False)


@pytest.fixture(scope="module")
def pair() -> tuple[Prepared, Prepared, Tensor]:
    return turned_pair()


def test_great_trust_keeps_the_map_and_little_trust_does_not(
    pair: tuple[Prepared, Prepared, Tensor],
) -> None:
    one, two, truth = pair
    corrector = small_corrector()
    start = truth[:12, :12] + 0.1 * torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    corrector.log_trust.fill_(8.0)
    torch.testing.assert_close(corrected(start, one, two, corrector), start, atol=1e-3, rtol=0)
    corrector.log_trust.fill_(-8.0)
    assert float((corrected(start, one, two, corrector) - start).abs().max()) > 0.05


def test_rotations_and_vertex_order_do_not_matter(
    pair: tuple[Prepared, Prepared, Tensor],
) -> None:
    one, two, truth = pair
    corrector = small_corrector()
    # the target is the source, turned and renumbered: with the true map both look alike, so that
    # random features already agree and the answer is the truth
    found = corrected(truth, one, two, corrector)
    torch.testing.assert_close(found, truth[:12, :12], atol=0.02, rtol=0)
    turned = ready(moved(one.mesh, rotation(7)))
    again = corrected(truth[:20, :20], turned, two, corrector)
    torch.testing.assert_close(again, corrected(truth[:20, :20], one, two, corrector),
                               atol=2e-3, rtol=0)  # fmt: skip


def test_the_reverse_map_is_that_of_the_vertex_map(
    pair: tuple[Prepared, Prepared, Tensor],
) -> None:
    one, two, truth = pair
    torch.testing.assert_close(reverse(truth, one, two), truth.T, atol=0.02, rtol=0)


def test_shapes_it_cannot_see_are_refused_and_keep_their_map(
    pair: tuple[Prepared, Prepared, Tensor],
) -> None:
    one, two, truth = pair
    with pytest.raises(MeshError) as error:
        view(one, replace(SMALL, points=400))
    assert error.value.code == "corrector.too_small"
    cloud = ready(Mesh(one.mesh.vertices, np.zeros((0, 3), np.int64)))
    with pytest.raises(MeshError) as error:
        view(cloud, SMALL)
    assert error.value.code == "corrector.no_surface"
    config = replace(MatchConfig(), improvements=("correct",))
    found, notes = improved(truth, one, two, config, ignore_progress, ignore_map)
    assert found is truth and "not improved" in notes[0]


def test_a_corrector_comes_back_from_its_file(tmp_path: Path) -> None:
    first = small_corrector()
    first.info = {"steps": 3}
    CORRECTOR.save(tmp_path / "a.safetensors", first)
    second = CORRECTOR.load(tmp_path / "a.safetensors")
    assert second.config == SMALL and second.info["steps"] == 3
    for name, tensor in first.state_dict().items():
        assert torch.allclose(tensor, second.state_dict()[name], atol=1e-3)
    checkpoints.save(tmp_path / "b.safetensors", {"x": torch.zeros(1)}, {"corrector": {}})
    with pytest.raises(CheckpointError) as error:
        CORRECTOR.load(tmp_path / "b.safetensors")
    assert error.value.code == "corrector.not_a_corrector"


def test_the_shipped_corrector_fits_the_defaults() -> None:
    corrector = CORRECTOR.load()
    assert corrector.config == CorrectorConfig()
    assert corrector.info["training"]["data"]["shapes"]["seed"] == 0


def test_training_goes_on_bit_by_bit_and_mends_noise(
    tmp_path: Path, pair: tuple[Prepared, Prepared, Tensor]
) -> None:
    write_examples(tmp_path / "data", pair)
    config = training(tmp_path / "data")
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    numbers = train_corrector(config, tmp_path / "whole")
    assert numbers["pairs"] == 7 and numbers["held_out_pairs"] == 1

    def stop(event: object) -> None:
        stop.count += 1
        if stop.count == 5:
            raise Cancelled()

    stop.count = 0
    with pytest.raises(Cancelled):
        train_corrector(config, tmp_path / "parts", progress=stop)
    train_corrector(config, tmp_path / "parts")
    whole, parts = ((tmp_path / n / CORRECTOR.file).read_bytes() for n in ("whole", "parts"))
    assert whole == parts
    with pytest.raises(CheckpointError):
        train_corrector(replace(config, steps=13), tmp_path / "parts")


@pytest.mark.slow
def test_training_takes_a_quarter_of_the_noise_away(
    tmp_path: Path, pair: tuple[Prepared, Prepared, Tensor]
) -> None:
    write_examples(tmp_path / "data", pair)
    numbers = train_corrector(training(tmp_path / "data", steps=1200), tmp_path)
    assert numbers["distance_after"] < 0.75 * numbers["distance_before"]


def test_hopeless_maps_are_not_shown(
    tmp_path: Path, pair: tuple[Prepared, Prepared, Tensor]
) -> None:
    write_examples(tmp_path, pair)
    example = read_pair(example_path(tmp_path, 0), SMALL)
    assert usable(example) == [0, 1]
    perfect = small_corrector()
    perfect.log_trust.fill_(9.0)
    errors = held_out_errors(perfect, [example])
    assert errors["distance_after"] == pytest.approx(errors["distance_before"], rel=1e-2)


def test_what_training_refuses(tmp_path: Path, pair: tuple[Prepared, Prepared, Tensor]) -> None:
    with pytest.raises(InputError) as error:
        train_corrector(training(tmp_path / "none"), tmp_path)
    assert error.value.code == "work.too_few_examples"
    write_examples(tmp_path / "data", pair)
    with pytest.raises(InputError) as error:
        read_pair(example_path(tmp_path / "data", 0), replace(SMALL, points=100))
    assert error.value.code == "work.bad_example"
    config = replace(training(tmp_path / "data"), learning_rate=1e30)
    with pytest.raises(NumericalError) as error:
        train_corrector(config, tmp_path)
    assert error.value.code == "training.diverged"


def test_the_rate_rises_and_falls() -> None:
    config = CorrectorTrainingConfig(steps=100, warmup=10, learning_rate=1.0)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(rates[9])
    assert rates[-1] < 1e-3 and rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.slow
def test_examples_are_made_once_and_are_those_of_the_settings(tmp_path: Path) -> None:
    config = CorrectorDataConfig(pairs=1)
    assert make_examples(config, tmp_path) == {}
    path = example_path(tmp_path, 0)
    before = path.stat().st_mtime_ns
    assert make_examples(config, tmp_path) == {}
    assert path.stat().st_mtime_ns == before
    example = read_pair(path, config.network)
    assert example.found.shape[1:] == (2, 40, 40) and float(example.errors.min()) < 10
    other = load_config(CorrectorDataConfig, overrides=["pairs=1", "shapes.seed=5"])
    with pytest.raises(InputError) as error:
        make_examples(other, tmp_path)
    assert error.value.code == "work.other_folder"
