"""The street teacher: saved and loaded whole, trained bit by bit, judged by hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geo3d import checkpoints
from geo3d.errors import Cancelled, CheckpointError, ConfigError
from geo3d.synth.streets.styles import STYLES
from geo3d.work.training import CHECKPOINT, Plan, run_training
from scenes.urban.street_data import StreetDataConfig, StreetImages, street_images
from scenes.urban.street_segmenter import (
    SegmenterTrainingConfig,
    StreetSegmenter,
    agreement,
    load_segmenter,
    train_segmenter,
)
from scenes.urban.street_teacher import (
    StreetTeacher,
    TeacherConfig,
    load_teacher,
    prompt_ids,
    sample,
    save_teacher,
    scheduler,
)
from scenes.urban.styles import load_styles
from scenes.urban.teacher_report import (
    class_color_error,
    draw_samples,
    evaluate_teacher,
    psnr,
    table,
)
from scenes.urban.train_teacher import (
    TeacherTraining,
    TeacherTrainingConfig,
    batch,
    learning_rate,
    train_teacher,
)

TINY = TeacherConfig(size=16, widths=(8, 16), heads=2, token_width=8, groups=4)
TRAINING = TeacherTrainingConfig(
    network=TINY, steps=6, coarse_steps=2, batch=2, warmup_steps=2, log_every=2, seed=3
)


@pytest.fixture(scope="module")
def data() -> StreetImages:
    return street_images(StreetDataConfig(pictures=12, size=16, street_length=40.0), 0)


@pytest.fixture
def stored(data: StreetImages, monkeypatch: pytest.MonkeyPatch) -> StreetImages:
    for module in ("train_teacher", "street_segmenter"):
        monkeypatch.setattr(f"scenes.urban.{module}.load_street_data", lambda folder: data)
    return data


@pytest.fixture(scope="module")
def teacher() -> StreetTeacher:
    made = StreetTeacher(TINY, seed=1).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    # a fresh ControlNet ends in zeros
    for weights in made.controlnet.parameters():
        weights.add_(0.1 * torch.randn(weights.shape, generator=generator))
    return made


def test_the_last_level_is_pure_noise_and_v_is_predicted() -> None:
    levels = scheduler()
    assert float(levels.alphas_cumprod[-1]) < 1e-9
    assert levels.config["prediction_type"] == "v_prediction"


def test_a_saved_teacher_is_the_same(teacher: StreetTeacher, tmp_path: Path) -> None:
    save_teacher(teacher, tmp_path, half=False)
    loaded = load_teacher(tmp_path)
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    names = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert names <= {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
        "styles.json",
        "styles.safetensors",
    }
    save_teacher(teacher, tmp_path / "half")
    halved = load_teacher(tmp_path / "half").state_dict()
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(halved[name], value, rtol=1e-3, atol=1e-6)


def test_prompts_of_words_are_those_of_the_training(teacher: StreetTeacher, tmp_path: Path) -> None:
    save_teacher(teacher, tmp_path)
    styles = load_styles(tmp_path)
    cases = {
        "a snowy street at night": ("snow", "night"),
        "brick": ("brick",),
        "": (),
        "foggy evening": ("sunset", "fog"),
    }
    for prompt, names in cases.items():
        wanted = teacher.prompts(torch.tensor([prompt_ids(names)]))[0]
        torch.testing.assert_close(styles.tokens(prompt), wanted)
    assert prompt_ids(()) == [len(STYLES)] * 2


def test_samples_depend_on_style_condition_and_noise_alone(
    teacher: StreetTeacher, data: StreetImages
) -> None:
    conditions = torch.from_numpy(np.stack([data.condition(i) for i in range(3)]))
    noise = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    names = [("night",), ("sunny", "snow"), ()]
    many = sample(teacher, conditions, names, noise, steps=3)
    one = sample(teacher, conditions[1:2], names[1:2], noise[1:2], steps=3)
    torch.testing.assert_close(many[1:2], one, rtol=1e-4, atol=1e-5)
    assert many.abs().max() <= 1
    other = sample(teacher, conditions, [("fog",)] * 3, noise, steps=3)
    assert not torch.allclose(many, other)
    assert not torch.allclose(many, sample(teacher, conditions.flip(0), names, noise, steps=3))


def test_guidance_of_one_is_the_plain_prompt(teacher: StreetTeacher, data: StreetImages) -> None:
    conditions = torch.from_numpy(data.condition(0))[None]
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    nothing = sample(teacher, conditions, [()], noise, steps=2, guidance_scale=4.0)
    plain = sample(teacher, conditions, [()], noise, steps=2, guidance_scale=1.0)
    torch.testing.assert_close(nothing, plain, rtol=1e-4, atol=1e-5)


def test_condition_and_style_get_gradients(data: StreetImages, tmp_path: Path) -> None:
    training = TeacherTraining(TRAINING, data, torch.device("cpu"))
    network = training.network
    weight = network.controlnet.controlnet_cond_embedding.conv_in.weight
    first = weight.detach().clone()
    run_training(training, Plan("four steps", 4, lambda step: 4e-4), tmp_path, {})
    assert not torch.equal(first, weight)
    assert network.tokens.grad is not None and network.tokens.grad.abs().sum() > 0


def test_small_batches_are_means_of_the_large_ones(data: StreetImages) -> None:
    images, conditions, ids = batch(data, [1, 4], [False, True])
    small, sparse, _ = batch(data, [1, 4], [False, True], 2)
    torch.testing.assert_close(small, images.reshape(2, 3, 8, 2, 8, 2).mean(dim=(3, 5)))
    torch.testing.assert_close(sparse, conditions[:, :, ::2, ::2])
    assert ids.tolist() == [prompt_ids(data.style(1)), prompt_ids(())]
    restored = ((images[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(restored, data.images[1])


def test_a_broken_off_training_goes_on_bit_by_bit(stored: StreetImages, tmp_path: Path) -> None:
    train_teacher(TRAINING, tmp_path / "whole")

    def stop(event: dict[str, object]) -> None:
        if event["step"] == 3:
            raise Cancelled()

    with pytest.raises(Cancelled):
        train_teacher(TRAINING, tmp_path / "broken", progress=stop)
    lines: list[dict[str, object]] = []
    train_teacher(TRAINING, tmp_path / "broken", log_metrics=lines.append)
    assert lines[-1]["step"] == 6
    whole = checkpoints.load(tmp_path / "whole" / CHECKPOINT).tensors
    broken = checkpoints.load(tmp_path / "broken" / CHECKPOINT).tensors
    assert whole.keys() == broken.keys()
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
    with pytest.raises(CheckpointError) as caught:
        train_teacher(replace(TRAINING, batch=3), tmp_path / "broken")
    assert caught.value.code == "checkpoint.other_training"


def test_trainings_of_other_sizes_are_refused(data: StreetImages) -> None:
    with pytest.raises(ConfigError) as caught:
        TeacherTraining(TeacherTrainingConfig(), data, torch.device("cpu"))
    assert caught.value.code == "street_teacher.wrong_size"
    with pytest.raises(ConfigError) as caught:
        TeacherTrainingConfig(batch=0)
    assert caught.value.code == "config.bad_value"


def test_learning_rate_rises_and_falls() -> None:
    config = TeacherTrainingConfig(steps=100, warmup_steps=10, learning_rate=1.0, final_rate=0.1)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == 1.0 == max(rates)
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)


def test_agreement_by_hand() -> None:
    truth = np.array([[[0, 0], [5, -1]]], np.int8)
    seen = np.array([[[0, 5], [5, -1]]], np.int8)
    numbers = agreement(seen, truth)
    assert numbers["iou"] == {"-1": 1.0, "0": 0.5, "5": 0.5}
    assert numbers["miou"] == pytest.approx(2 / 3) and numbers["accuracy"] == 0.75


def test_image_distances_by_hand() -> None:
    black, grey = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(-20 * np.log10(0.2))
    assert psnr(black, black) == float("inf")
    half = black.copy()
    half[0] = 102
    labels = np.array([[1, 1], [2, 2]])
    assert class_color_error(half, black, labels) == pytest.approx(0.2)


def test_a_segmenter_learns_and_is_saved(stored: StreetImages, tmp_path: Path) -> None:
    config = SegmenterTrainingConfig(steps=40, batch=4, width=8, held_out=2)
    losses: list[float] = []
    path = tmp_path / "segmenter.safetensors"
    numbers = train_segmenter(config, path, log_metrics=lambda m: losses.append(m["loss"]))
    assert len(losses) == 2 and losses[1] < 0.9 * losses[0]
    network = load_segmenter(path)
    assert isinstance(network, StreetSegmenter)
    seen = network.labels(stored.images)
    assert seen.shape == stored.labels.shape and seen.min() >= -1
    kept = agreement(seen[-2:], stored.labels[-2:])
    assert kept["miou"] == pytest.approx(numbers["miou"])


def test_reports_have_a_row_per_style(
    teacher: StreetTeacher, data: StreetImages, tmp_path: Path
) -> None:
    judge = StreetSegmenter(8).eval()
    numbers = evaluate_teacher(teacher, data, per_style=1, steps=2, segmenter=judge)
    present = {str(s) for s in data.styles if "+" not in str(s)}
    assert present <= set(numbers["styles"]) and numbers["styles"]["all"]["n"] > 1
    assert len(table(numbers).splitlines()) == len(numbers["styles"]) + 2
    names = list(STYLES)[:2]
    twice = data.part(np.array([0, 1, 2, 3]))
    twice = replace(twice, styles=np.array([names[0], names[0], names[1], names[1]]))
    assert draw_samples(tmp_path / "a.png", teacher, twice, samples=1, steps=2).stat().st_size > 0
