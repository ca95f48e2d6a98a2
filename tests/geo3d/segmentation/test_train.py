"""Training: it learns, it resumes bit by bit, and each framework does what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geo3d.config import load_config
from geo3d.errors import Cancelled, CheckpointError, ConfigError, InputError
from geo3d.segmentation.batches import TrainingImages, batches
from geo3d.segmentation.config import PRESETS, SegmentationConfig, learning_rate
from geo3d.segmentation.data import Dataset, Sample, generated_dataset
from geo3d.segmentation.frameworks import load_targets, targets_path, training_loss
from geo3d.segmentation.network import NetworkConfig, weights
from geo3d.segmentation.predict import load_segmenter
from geo3d.segmentation.train import find_loss, load_samples, train_segmenter
from geo3d.topology.losses.catalogue import LOSSES, Loss
from geo3d.work.training import CHECKPOINT

TINY = SegmentationConfig(
    network=NetworkConfig((4, 6, 8)),
    iterations=6,
    batch=2,
    crop=32,
    validate_every=3,
    log_every=2,
    augmentation="flips",
)
WALLS = generated_dataset(3, 1, 0, 48)


def train(config: SegmentationConfig, out: Path, dataset: Dataset = WALLS, **more: Any) -> Any:
    return train_segmenter(config, dataset, out, device="cpu", **more)


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(weights(one.network).values(), weights(other.network).values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Stop:
    """A listener that cancels after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Any) -> None:
        if event["step"] == self.step:
            raise Cancelled()


def test_a_cancelled_training_goes_on_bit_by_bit(tmp_path: Path) -> None:
    for framework in ("supervised", "randhue", "selfdistillation"):
        config = replace(TINY, framework=framework)
        whole = train(config, tmp_path / f"{framework}-whole")
        for stop in (1, 4):
            out = tmp_path / f"{framework}-{stop}"
            with pytest.raises(Cancelled):
                train(config, out, progress=Stop(stop))
            assert same_weights(train(config, out), whole), (framework, stop)
        other = train(replace(config, seed=1), tmp_path / f"{framework}-other")
        assert not same_weights(other, whole)


@pytest.mark.slow
def test_a_killed_training_goes_on_bit_by_bit(tmp_path: Path) -> None:
    verb = [
        *(sys.executable, "-m", "apps.cli", "train", "segmenter"),
        "--device=cpu",
        "--threads=1",
    ]
    command = [*verb, "--quiet", *("--set", "iterations=60", "--set", "checkpoint_seconds=0.0")]
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, "--out", str(out)], env=environment, cwd=tmp_path)
    while not (found := list(out.glob("*/*/metrics.jsonl"))):
        assert process.poll() is None
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGKILL)
    process.wait()
    resume = ["--resume", str(found[0].parent)]
    subprocess.run([*verb, *resume], env=environment, cwd=tmp_path, check=True)
    whole = tmp_path / "whole"
    subprocess.run([*command, "--out", str(whole)], env=environment, cwd=tmp_path, check=True)
    files = [next(f.glob("*/*/outputs/segmenter.safetensors")) for f in (out, whole)]
    killed, undisturbed = (load_segmenter(file, "cpu") for file in files)
    assert same_weights(killed, undisturbed)


def test_it_learns(tmp_path: Path) -> None:
    lines: list[Any] = []
    config = replace(TINY, iterations=40, batch=4, momentum=0.9, validate_every=20)
    segmenter = train(config, tmp_path, log_metrics=lines.append)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.1
    measured = [line for line in lines if "dice" in line]
    assert [line["step"] for line in measured] == [20, 40]
    assert segmenter.info["steps"] == 40 and segmenter.info["training_pictures"] == 3


def test_another_training_in_the_folder_is_refused(tmp_path: Path) -> None:
    train(TINY, tmp_path)
    for config, dataset in (
        (replace(TINY, seed=1), WALLS),
        (TINY, generated_dataset(3, 1, 0, 48, seed=1)),
    ):
        with pytest.raises(CheckpointError, match=r"checkpoint\.other_training"):
            train(config, tmp_path, dataset)
    assert (tmp_path / CHECKPOINT).is_file()


def test_distillation_learns_from_probabilities_of_the_generation_before(tmp_path: Path) -> None:
    config = replace(TINY, framework="selfdistillation")
    train(config, tmp_path)
    samples = load_samples(WALLS.train)
    first, second = (load_targets(targets_path(tmp_path, g), samples) for g in (1, 2))
    assert len(first) == 3 and first[0].shape == (48, 48)
    assert first[0].min() >= 0 and first[0].max() <= 1
    assert any((a != b).any() for a, b in zip(first, second, strict=True))
    with pytest.raises(CheckpointError, match=r"segmenter\.wrong_targets"):
        load_targets(targets_path(tmp_path, 1), samples[:2])


def test_soft_targets_are_cut_with_their_images() -> None:
    samples = load_samples(WALLS.train)
    soft = [sample.mask.astype(np.float16) * 0.5 + 0.25 for sample in samples]
    hard, blurred = TrainingImages(samples, TINY), TrainingImages(samples, TINY, soft)
    for number in range(6):
        (image, mask), (same, target) = hard[number], blurred[number]
        assert torch.equal(image, same)
        assert target.shape == (2, 32, 32)
        torch.testing.assert_close(target[1], mask.float() * 0.5 + 0.25)
        torch.testing.assert_close(target.sum(dim=0), torch.ones(32, 32))


def test_each_image_is_seen_once_before_any_comes_again() -> None:
    size = 64
    flat = [
        Sample(np.full((size, size, 3), 10 * k, np.uint8), np.ones((size, size), bool))
        for k in range(5)
    ]
    images = TrainingImages(flat, replace(TINY, crop=None, iterations=10, batch=1))
    orders = [images._order(epoch) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert orders[0] != orders[1]


def test_batches_begin_at_any_step_and_in_any_number_of_processes() -> None:
    images = TrainingImages(load_samples(WALLS.train), TINY)
    everything = list(batches(images, 0))
    assert len(everything) == TINY.iterations
    before = torch.random.get_rng_state()
    late = list(batches(images, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    for found, wanted in zip(late, everything[4:], strict=True):
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_of_the_catalogue_trains(name: str, tmp_path: Path) -> None:
    if 2 not in LOSSES[name].dimensions:
        pytest.skip("for volumes")
    for compat in (False, True):
        config = replace(TINY, loss=name, iterations=3, validate_every=0, compat=compat)
        try:
            segmenter = train(config, tmp_path / f"{compat}")
        except ConfigError as error:
            # Some losses were never published in a form that runs.
            assert compat and error.code == "loss.not_published"
            continue
        is_distance = compat and name == "topo_win"
        assert segmenter.out_channels == (1 if is_distance else 2)


def test_the_expensive_part_waits_and_stays_off_auxiliary_heads() -> None:
    def named(value: float) -> Any:
        return lambda logits, target, compat=False: logits.sum() * 0 + value

    loss = Loss("x", named(10.0), "", auxiliary=named(1.0), active_after=0.7)
    heads, target = torch.zeros(1, 3, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    off = training_loss(loss, heads, target, is_active=False)
    on = training_loss(loss, heads, target, is_active=True)
    assert float(off) == pytest.approx(1.0)
    # Head 0 weighs 4/7 of all three.
    assert float(on) == pytest.approx(10 * 4 / 7 + 3 / 7)
    published = training_loss(loss, heads, target, is_active=True, compat=True)
    assert float(published) == pytest.approx((10 + 2 / 7 + 1 / 7) / 3)
    alone = training_loss(loss, heads[:, 0], target, is_active=True)
    assert float(alone) == pytest.approx(10.0)


def test_the_learning_rate_falls_in_each_generation() -> None:
    config = replace(TINY, framework="selfdistillation", iterations=9)
    rates = [learning_rate(config, step) for step in range(9)]
    assert rates[0] == rates[3] == rates[6] == 0.01
    assert rates[0] > rates[1] > rates[2] > 0


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_valid(preset: str) -> None:
    config = load_config(SegmentationConfig, preset=preset)
    find_loss(config.loss)


def test_the_paper_preset_is_the_published_protocol() -> None:
    config = load_config(SegmentationConfig, preset="paper")
    assert (config.iterations, config.batch, config.crop) == (12_000, 10, None)
    assert (config.learning_rate, config.momentum, config.weight_decay) == (0.01, 0.99, 3e-5)
    assert (config.clip, config.power, config.hue_probability) == (12, 0.9, 0.5)


def test_bad_settings_are_refused() -> None:
    for given in ("iterations=0", "crop=100", "crop=32", "momentum=1.0", "hue_probability=2.0"):
        with pytest.raises(ConfigError, match=r"config\.bad_value"):
            load_config(SegmentationConfig, overrides=[given])
    with pytest.raises(ConfigError, match="multiple of generations"):
        load_config(SegmentationConfig, overrides=["framework=selfdistillation", "iterations=10"])
    with pytest.raises(ConfigError, match=r"segmenter\.unknown_loss"):
        find_loss("cldice")


def test_bad_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"segmenter\.no_images"):
        train(TINY, tmp_path, Dataset("none", (), (), ()))
    for config in (replace(TINY, crop=64), replace(TINY, crop=None, network=NetworkConfig())):
        with pytest.raises(InputError, match=r"segmenter\.bad_size.*48 x 48"):
            train(config, tmp_path)


def test_images_without_mortar_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Sample(np.zeros((48, 48, 3), np.uint8), np.zeros((48, 48), bool))
    monkeypatch.setattr("geo3d.segmentation.train.load_samples", lambda items: (empty,))
    with pytest.raises(InputError, match=r"segmenter\.no_mortar"):
        train(TINY, tmp_path)


def test_bfloat16_trains_too(tmp_path: Path) -> None:
    segmenter = train(replace(TINY, precision="bfloat16"), tmp_path)
    assert all(w.dtype == torch.float32 for w in weights(segmenter.network).values())


@pytest.mark.slow
def test_the_published_network_takes_a_step(tmp_path: Path) -> None:
    given = ["iterations=1", "batch=1", "crop=256", "validate_every=0"]
    config = load_config(SegmentationConfig, preset="paper", overrides=given)
    segmenter = train(config, tmp_path, generated_dataset(1, 0, 0, 256))
    assert segmenter.info["numbers"]["loss"] < 2
