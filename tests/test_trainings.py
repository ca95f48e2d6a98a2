"""What holds for every training of the project: it never spoils what it has written.

Each is run for a few steps on tiny data, writing a checkpoint at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import anatomy_helpers
import numpy as np
import pytest
import torch
from confidence_helpers import write_outcomes
from corrector_helpers import training, turned_pair, write_examples
from distill_helpers import settings
from prior_helpers import NETWORK, write_maps
from torch import Tensor, nn

from geo3d import checkpoints
from geo3d.config import config_from_dict
from geo3d.errors import Cancelled, CheckpointError, NumericalError
from geo3d.progress import ignore_progress
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.data import generated_dataset
from geo3d.segmentation.network import NetworkConfig
from geo3d.segmentation.train import train_segmenter
from geo3d.work import training as loop
from geo3d.work.state import previous
from geo3d.work.training import CHECKPOINT
from scenes.objects.small.fit import fit
from scenes.objects.small.settings import StageConfig
from scenes.objects.train_config import DistillConfig
from scenes.objects.training import train as train_flow
from scenes.urban import street_segmenter, train_teacher
from scenes.urban.street_data import StreetImages
from scenes.urban.street_teacher import TeacherConfig
from shape_matching.anatomy.training import train_anatomy
from shape_matching.confidence.data import OutcomeConfig
from shape_matching.confidence.training import ConfidenceTrainingConfig, train_confidence
from shape_matching.corrector.training import train_corrector
from shape_matching.prior.training import PriorTrainingConfig, train_prior

STEPS = 6


class Training(Protocol):
    """Runs a training into a folder."""

    def __call__(self, out: Path, rate: float = 1e-3, **listeners: Any) -> Any: ...


def prior(data: Path) -> Training:
    write_maps(data)

    def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
        config = PriorTrainingConfig(
            data=str(data), network=NETWORK, preconditioning="edm", loss="edm", batch=16,
            samples=16 * STEPS, warmup_samples=0, validation_share=0.2, learning_rate=rate,
            checkpoint_seconds=0.0,
        )  # fmt: skip
        return train_prior(config, out, device="cpu", **listeners)

    return run


def corrector(data: Path) -> Training:
    write_examples(data, turned_pair())

    def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
        config = training(data, steps=STEPS, learning_rate=rate, checkpoint_seconds=0.0)
        return train_corrector(config, out, **listeners)

    return run


def anatomy(data: Path) -> Training:
    anatomy_helpers.write_bodies(data)

    def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
        config = anatomy_helpers.training(
            data, steps=STEPS, learning_rate=rate, checkpoint_seconds=0.0
        )
        return train_anatomy(config, out, **listeners)

    return run


def confidence(data: Path) -> Training:
    write_outcomes(data, 16)

    def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
        config = ConfidenceTrainingConfig(
            outcomes=str(data), data=OutcomeConfig(pairs=16), steps=STEPS, batch=16,
            learning_rate=rate, checkpoint_seconds=0.0,
        )  # fmt: skip
        return train_confidence(config, out, **listeners)

    return run


def segmenter(data: Path) -> Training:
    walls = generated_dataset(3, 1, 0, 48)

    def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
        config = SegmentationConfig(
            network=NetworkConfig((4, 6, 8)), framework="selfdistillation", iterations=STEPS,
            batch=2, crop=32, augmentation="flips", learning_rate=rate, checkpoint_seconds=0.0,
        )  # fmt: skip
        return train_segmenter(config, walls, out, device="cpu", **listeners)

    return run


def streets() -> StreetImages:
    """Return images of nothing in particular."""
    rng = np.random.default_rng(0)
    shape = (12, 16, 16)
    return StreetImages(
        rng.integers(0, 256, (*shape, 3), np.uint8),
        rng.integers(-1, 6, shape, np.int8),
        rng.uniform(1, 40, shape).astype(np.float16),
        np.array(["night", "fog"] * 6),
    )


def teacher(data: Path) -> Training:
    network = TeacherConfig(size=16, widths=(8, 16), heads=2, token_width=8, groups=4)

    def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
        config = train_teacher.TeacherTrainingConfig(
            network=network, steps=STEPS, coarse_steps=2, batch=2, warmup_steps=0,
            learning_rate=rate, checkpoint_every=1,
        )  # fmt: skip
        return train_teacher.train_teacher(config, out, **listeners)

    return run


def judge(data: Path) -> Training:
    def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
        config = street_segmenter.SegmenterTrainingConfig(
            steps=STEPS, batch=2, width=8, held_out=2, learning_rate=rate, checkpoint_seconds=0.0
        )
        return street_segmenter.train_segmenter(config, out / "judge.safetensors", **listeners)

    return run


class Line:
    """A linear layer learns y = 2 x + noise."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.names = ["a", "b", "c"]
        self.network = nn.ModuleDict({"layer": nn.Linear(1, 1)})

    def loss(self, items: list[int], generator: torch.Generator) -> dict[str, Tensor]:
        x = torch.tensor(items).float()[:, None]
        noise = 0.1 * torch.randn(x.shape, generator=generator)
        return {"error": (self.network["layer"](x) - 2 * x + noise).square().mean()}


def autoencoder(data: Path) -> Training:
    def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
        config = StageConfig(
            steps=STEPS, batch=2, learning_rate=rate, warmup_steps=0, checkpoint_seconds=0.0
        )
        network, numbers = fit(Line(), config, out, **listeners)
        checkpoints.save(out / "line.safetensors", network.state_dict())
        return numbers

    return run


def flow(objective: Mapping[str, Any]) -> Callable[[Path], Training]:
    def make(data: Path) -> Training:
        def run(out: Path, rate: float = 1e-3, **listeners: Any) -> Any:
            values = settings(
                data, "dense", objective=objective, steps=STEPS, checkpoint_every=1, batch=2,
                optimiser={"learning_rate": rate, "average_rates": [0.9]},
            )  # fmt: skip
            config = config_from_dict(DistillConfig, values)
            return train_flow(config, out, device="cpu", **listeners)

        return run

    return make


TRAININGS: dict[str, Callable[[Path], Training]] = {
    "prior": prior,
    "corrector": corrector,
    "anatomy": anatomy,
    "confidence": confidence,
    "segmenter": segmenter,
    "street teacher": teacher,
    "street segmenter": judge,
    "autoencoder": autoencoder,
    "flow": flow({"kind": "flow_matching"}),
    "flow with tracker": flow({"kind": "distribution", "tracker_updates": 1}),
}


@dataclass
class Case:
    """A training, and what it makes undisturbed."""

    run: Training
    whole: Path
    result: Any


@pytest.fixture(scope="module", params=TRAININGS)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    folder, images = tmp_path_factory.mktemp("training"), streets()
    with pytest.MonkeyPatch.context() as patch:
        for module in (train_teacher, street_segmenter):
            patch.setattr(module, "load_street_data", lambda folder: images)
        run = TRAININGS[request.param](folder / "data")
        yield Case(run, folder / "whole", run(folder / "whole"))


def weights(folder: Path) -> dict[str, Tensor]:
    """Return everything that is written, but the generation before."""
    return {
        f"{path.relative_to(folder)} {name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        if path != previous(folder / CHECKPOINT)
        for name, tensor in checkpoints.load(path).tensors.items()
    }


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def are_finite(folder: Path) -> bool:
    return all(bool(t.float().isfinite().all()) for t in weights(folder).values())


def fail_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gradient of one step be no number."""
    calls: list[int] = []
    sound = loop.gradient_norm

    def norm(gradients: Any) -> Tensor:
        calls.append(1)
        return torch.tensor(torch.nan) if len(calls) == step else sound(gradients)

    monkeypatch.setattr(loop, "gradient_norm", norm)


def test_a_step_that_is_not_finite_leaves_the_state_before_it(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_at(5, patch)
        with pytest.raises(NumericalError) as caught:
            case.run(tmp_path / "parts")
    assert caught.value.code == "training.diverged" and "step 5" in caught.value.message
    assert are_finite(tmp_path / "parts")
    step = checkpoints.load(tmp_path / "parts" / CHECKPOINT).config["step"]
    assert step == 3  # the fourth gradient showed that it is good
    case.run(tmp_path / "parts")
    assert are_equal(weights(tmp_path / "parts"), weights(case.whole))


def test_a_training_that_explodes_can_be_resumed_with_a_lower_rate(
    case: Case, tmp_path: Path
) -> None:
    """What lies on disk stays finite (case `nan_checkpoint`)."""
    with pytest.raises(NumericalError, match=r"training\.diverged"):
        case.run(tmp_path / "out", 1e30)
    assert are_finite(tmp_path / "out")
    if (tmp_path / "out" / CHECKPOINT).is_file():  # not where the second step already explodes
        with pytest.raises(CheckpointError, match="other_training"):
            case.run(tmp_path / "out", 1e31)
    case.run(tmp_path / "out", 1e-4)
    assert are_finite(tmp_path / "out")


def test_a_torn_checkpoint_is_no_loss(case: Case, tmp_path: Path) -> None:
    def stop(event: Mapping[str, Any]) -> None:
        if event["step"] == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        case.run(tmp_path / "parts", progress=stop)
    path = tmp_path / "parts" / CHECKPOINT
    steps = [checkpoints.load(p).config["step"] for p in (path, previous(path))]
    assert steps == [4, 3]
    path.write_bytes(path.read_bytes()[:-100])
    seen: list[int] = []
    case.run(tmp_path / "parts", progress=lambda event: seen.append(event["step"]))
    assert seen[0] == 4
    assert are_equal(weights(tmp_path / "parts"), weights(case.whole))


def test_a_finished_training_is_finished(case: Case) -> None:
    before = weights(case.whole)
    again = case.run(case.whole, progress=ignore_progress)
    assert are_equal(before, weights(case.whole))
    if isinstance(again, dict):
        assert again == case.result
