"""Losses and networks of one's own: named, imported, and found again in fresh processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from geo3d.config import config_from_dict
from geo3d.errors import CheckpointError, ConfigError, Geo3dError, InputError
from geo3d.segmentation.benchmark import BenchmarkConfig, failures_of, grid, is_finished, run_cells
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.data import generated_dataset
from geo3d.segmentation.own_code import fingerprint, is_importable, own_function
from geo3d.segmentation.predict import load_segmenter
from geo3d.segmentation.train import find_loss, train_segmenter
from geo3d.topology.losses.catalogue import LOSSES, Loss

SOURCE = """
import torch
VALUE = 3
def loss(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels)
class Losses(torch.nn.Module):
    forward = staticmethod(loss)
class Needy(torch.nn.Module):
    def __init__(self, size): super().__init__()
def network(spatial_dims, in_channels, out_channels):
    kind = torch.nn.Conv2d if spatial_dims == 2 else torch.nn.Conv3d
    return torch.nn.Sequential(kind(in_channels, 4, 3, padding=1), torch.nn.BatchNorm2d(4),
                               torch.nn.ReLU(), kind(4, out_channels, 1))
def odd(spatial_dims, in_channels, out_channels): return torch.nn.Conv2d(in_channels, 7, 3)
def no_network(**sizes): return 3
def failing(logits, labels): raise RuntimeError("my own mistake")
"""
TRAINING = {
    "network": {"filters": (4, 4, 4)},
    "iterations": 3,
    "batch": 1,
    "crop": 32,
    "augmentation": "none",
    "validate_every": 0,
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a module in the folder we are in, which is not on the path."""
    path = tmp_path / "my_own_losses.py"
    path.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    yield path
    sys.modules.pop("my_own_losses", None)
    while str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)


def config(**changes: object) -> BenchmarkConfig:
    values = {"seeds": 1, "wall_side": 64, "walls": (2, 1, 2), "training": TRAINING}
    return config_from_dict(BenchmarkConfig, {**values, **changes})


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("my_own_losses", "own.bad_name"),
        ("my_own_losses:", "own.bad_name"),
        ("os.path:__import__", "own.bad_name"),
        ("a b:c", "own.bad_name"),
        ("my_own_losses:loss()", "own.bad_name"),
        ("no_such_module:loss", "own.no_module"),
        ("my_own_losses.deeper:loss", "own.no_module"),
        ("broken_module:loss", "own.failed"),
        ("my_own_losses:missing", "own.no_function"),
        ("my_own_losses:VALUE", "own.not_callable"),
    ],
)
def test_slips_are_named(name: str, code: str, module: Path) -> None:
    (module.parent / "broken_module.py").write_text("1 / 0")
    with pytest.raises(ConfigError) as caught:
        own_function(name)
    assert caught.value.code == code


def test_functions_and_classes_are_losses(module: Path) -> None:
    scores, labels = torch.randn(1, 2, 4, 4), torch.zeros(1, 4, 4).long()
    one, two = (find_loss(f"my_own_losses:{n}").function for n in ("loss", "Losses"))
    assert one(scores, labels) == two(scores, labels) > 0
    with pytest.raises(ConfigError, match=r"segmenter\.own_loss"):
        find_loss("my_own_losses:Needy")


@pytest.mark.slow
def test_own_losses_reach_the_workers(module: Path, tmp_path: Path) -> None:
    """Processes that are started know them too (case `own_loss_in_worker`)."""
    LOSSES["smoothed"] = Loss("smoothed", smoothed, "own")
    try:
        plan = config(losses=("smoothed", "my_own_losses:loss", "my_own_losses:failing"))
        cells = grid(plan)
        run_cells(plan, cells, tmp_path / "out", lambda *_: None)
        assert [is_finished(cell, tmp_path / "out") for cell in cells] == [True, True, False]
        (failure,) = failures_of(cells, tmp_path / "out")
        assert "my own mistake" in failure["message"]
        module.write_text(SOURCE + "\n# changed\n")
        with pytest.raises(InputError, match=r"work\.other_folder"):
            run_cells(plan, cells, tmp_path / "out", lambda *_: None)
    finally:
        del LOSSES["smoothed"]


def test_what_no_other_process_finds_is_refused(tmp_path: Path) -> None:
    """Before anything is trained (case `own_loss_in_worker`)."""
    LOSSES["local"] = Loss("local", lambda z, t: smoothed(z, t), "own")
    try:
        plan = config(losses=("local",))
        with pytest.raises(ConfigError, match=r"segmenter\.loss_only_here"):
            run_cells(plan, grid(plan), tmp_path, lambda *_: None)
    finally:
        del LOSSES["local"]
    assert is_importable(partial(smoothed, labels=None)) and is_importable(torch.nn.MSELoss())


def test_a_network_of_ones_own(module: Path, tmp_path: Path) -> None:
    name = "my_own_losses:network"
    network = {"own": name, "own_stride": 8}
    training = config_from_dict(SegmentationConfig, {**TRAINING, "network": network})
    walls = generated_dataset(2, 1, 1, 48)
    trained = train_segmenter(training, walls, tmp_path / "out", device="cpu")
    file = tmp_path / "out" / "segmenter.safetensors"
    with pytest.raises(CheckpointError, match=r"segmenter\.other_network.*my_own_losses:network"):
        load_segmenter(file, "cpu")
    again = load_segmenter(file, "cpu", name)
    image = walls.test[0].load().image
    assert (again.predict(image).probabilities == trained.predict(image).probabilities).all()
    assert fingerprint(own_function(name)) != ""
    for other in ("odd", "no_network", "VALUE", "nothing"):
        bad = {**TRAINING, "network": {"own": f"my_own_losses:{other}", "own_stride": 8}}
        with pytest.raises(Geo3dError) as caught:
            train_segmenter(config_from_dict(SegmentationConfig, bad), walls, tmp_path / other)
        assert caught.value.code.startswith(("segmenter.own_network", "own."))
