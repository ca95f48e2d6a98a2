"""The probability that a map is right, learned, stored, and reported."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from confidence_helpers import write_outcomes

from geo3d.errors import CheckpointError, InputError
from geo3d.synth.creatures import generate_creature, pose
from geo3d.work.examples import example_path, write_example
from shape_matching.confidence.calibrate import calibrated
from shape_matching.confidence.data import (
    OutcomeConfig,
    _outcomes,
    read_outcomes,
)
from shape_matching.confidence.model import Head, load_confidence, save_confidence
from shape_matching.confidence.training import (
    ConfidenceTrainingConfig,
    fit_regression,
    logits_of,
    set_temperature,
    train_confidence,
)
from shape_matching.correspondence import Correspondence
from shape_matching.evaluate.metrics import calibration_bins, calibration_error


def test_it_learns_which_maps_are_right(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "data", 160)
    config = ConfidenceTrainingConfig(
        outcomes=str(tmp_path / "data"), data=OutcomeConfig(pairs=160), steps=400
    )
    numbers = train_confidence(config, tmp_path)
    assert numbers["maps_auc"] > 0.9 and numbers["vertex_auc"] > 0.9
    assert numbers["vertex_calibration_error"] < 0.1
    model = load_confidence(tmp_path / "confidence.safetensors")
    assert model.info["maps_auc"] == numbers["maps_auc"]


def test_temperature_mends_what_is_too_sure_of_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, generator=generator)
    right = torch.rand(4000, generator=generator) < torch.sigmoid(truth)
    head = Head(1)
    torch.nn.init.constant_(head.layers[0].weight, 4.0)
    torch.nn.init.constant_(head.layers[0].bias, 1.0)

    def error() -> float:
        said = torch.sigmoid(head(truth[:, None])).detach().double().numpy()
        return calibration_error(calibration_bins(said, right.numpy()))

    before = error()
    set_temperature(head, logits_of(head, truth[:, None]), right)
    assert error() < 0.05 < before


def test_a_signal_that_is_not_known_counts_as_the_mean() -> None:
    inputs = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    right = inputs[:, 0] > 0
    inputs[::3, 1] = torch.nan
    head = Head(2)
    fit_regression(head, inputs, right, torch.ones(200))
    said = torch.sigmoid(logits_of(head, inputs))
    assert ((said > 0.5) == right).float().mean() > 0.95
    unknown, mean = inputs[:1].clone(), inputs[:1].clone()
    unknown[0, 1], mean[0, 1] = torch.nan, head.mean[1]
    assert torch.equal(head(unknown), head(mean))


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    from geo3d import checkpoints

    checkpoints.save(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {"confidence": {}})
    with pytest.raises(CheckpointError, match=r"confidence\.not_a_model"):
        load_confidence(tmp_path / "x.safetensors")


def test_too_few_and_damaged_outcomes(tmp_path: Path) -> None:
    write_outcomes(tmp_path, 3)
    config = ConfidenceTrainingConfig(outcomes=str(tmp_path), data=OutcomeConfig(pairs=3))
    with pytest.raises(InputError, match=r"confidence_training\.too_few"):
        train_confidence(config, tmp_path / "out")
    example_path(tmp_path, 0).write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"confidence_data\.bad_outcome"):
        read_outcomes(example_path(tmp_path, 0))


def test_the_shipped_model_knows_right_mirrored_and_wrong_maps() -> None:
    biped = generate_creature("biped", 91, 1500)
    pair = pose(biped, 1), pose(biped, 2)
    ids = np.arange(biped.rest.n_vertices)
    shuffled = np.random.default_rng(0).permutation(len(ids))
    owner = biped.weights.argmax(axis=1)
    head = np.isin(
        owner, [i for i, b in enumerate(biped.bones) if b.group in ("head", "ear", "snout")]
    )
    half = np.where(head, biped.symmetry, ids)
    right, mirrored, wrong = (
        calibrated(Correspondence(*pair, p, np.argsort(p), None, np.ones(len(ids))))
        for p in (ids, half, shuffled)
    )
    assert right.probability is not None and wrong.probability is not None
    assert right.probability > 0.8 and right.confidence.mean() > 0.8 and not right.notes
    assert wrong.probability < 0.1 and wrong.confidence.mean() < 0.2
    assert "may well be wrong" in " ".join(wrong.notes)
    assert mirrored.confidence[head].mean() < 0.6 < mirrored.confidence[~head].mean()
    assert "turns the surface over" in " ".join(mirrored.notes)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model = load_confidence()
    save_confidence(tmp_path / "again.safetensors", model)
    again = load_confidence(tmp_path / "again.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.slow
def test_outcomes_are_made_and_are_those_of_the_settings(tmp_path: Path) -> None:
    config = OutcomeConfig(pairs=1)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_example(partial(_outcomes, config), tmp_path / folder, 2)
    one, two = (read_outcomes(example_path(tmp_path / f, 2))[0] for f in ("a", "b"))
    np.testing.assert_array_equal(one.errors, two.errors)
    assert one.chosen and one.error < 0.05
