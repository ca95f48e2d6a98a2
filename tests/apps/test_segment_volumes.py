"""``geo3d segment`` on volumes: NIfTI in, NIfTI out, repaired with tunnels and cavities."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apps.cli import main
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.kinds import DataKind
from geo3d.segmentation.network import NetworkConfig, make_network
from geo3d.segmentation.outputs import Places
from geo3d.segmentation.predict import Prediction, Segmenter, save_segmenter
from geo3d.segmentation.volumes import draw_slices, regions_table, write_volume
from geo3d.topology.betti import betti_numbers
from geo3d.topology.repair import repair

nibabel = pytest.importorskip("nibabel")
AFFINE = np.array([[0, 0.5, 0, 7], [0.8, 0, 0, -3], [0, 0, 2.0, 1], [0, 0, 0, 1.0]])
VESSELS = DataKind(("background", "vessel"), channels=1, dimensions=3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained network for volumes: its masks are nonsense, full of pieces and tunnels."""
    config = SegmentationConfig(network=NetworkConfig((4, 4, 4)))
    generator = torch.Generator().manual_seed(3)
    network = make_network(config.network, 2, generator, in_channels=1, dimensions=3)
    path = tmp_path / "model.safetensors"
    save_segmenter(path, Segmenter(network, config, 2, {"data": "none"}, VESSELS))
    return path


def test_a_volume_keeps_its_place_and_is_repaired(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).normal(size=(16, 20, 24)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "head.nii.gz")
    np.save(tmp_path / "plain.npy", values[:, :16])
    paths = [str(tmp_path / name) for name in ("head.nii.gz", "plain.npy")]
    flags = ["--model", str(model), "--out", str(tmp_path), "--json", "--quiet"]
    assert main(["segment", *paths, *flags]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(["segment", *paths, *flags, "--repair"]) == 0
    found = json.loads(capsys.readouterr().out)
    outputs = Path(found["run"]) / "outputs"
    image = nibabel.load(outputs / "head-mask.nii.gz")
    mask = np.asanyarray(image.dataobj)
    assert (
        np.allclose(image.affine, AFFINE) and mask.dtype == np.uint8 and mask.shape == values.shape
    )
    assert np.load(outputs / "plain-mask.npy").shape == (16, 16, 24)
    likely = np.asanyarray(nibabel.load(outputs / "head-probability.nii.gz").dataobj)
    assert likely.dtype == np.uint16
    for before, row in zip(plain["pictures"], found["pictures"], strict=True):
        numbers = [row[f"betti{k}"] for k in range(3)]
        assert row["repair"]["after"] == numbers
        assert row["repair"]["before"] == [before[f"betti{k}"] for k in range(3)]
        assert sum(numbers) < sum(row["repair"]["before"])
    assert tuple(found["pictures"][0]["repair"]["after"]) == betti_numbers(mask == 1)
    with (outputs / "head-changes.csv").open() as file:
        changes = list(csv.DictReader(file))
    assert len(changes) == found["pictures"][0]["repair"]["changes"]
    assert {"slice", "row", "column"} <= set(changes[0])
    with Image.open(Path(found["run"]) / "previews" / "head-overlay.png") as overlay:
        assert overlay.size[1] >= 200
    assert main(["segment", "--resume", found["run"]]) == 0
    assert "tunnel" in capsys.readouterr().out


def test_several_classes_are_refused(tmp_path: Path) -> None:
    from geo3d.errors import InputError

    kind = DataKind(("background", "a", "b"), channels=1, dimensions=3)
    prediction = Prediction(np.zeros((3, 4, 4, 4), np.float32), (), kind)
    with pytest.raises(InputError, match=r"segment\.several_classes"):
        write_volume(
            tmp_path / "a.npy", np.zeros((4, 4, 4, 1)), prediction, "a", Places(tmp_path, tmp_path)
        )


def test_regions_and_slices_by_hand() -> None:
    mask = np.zeros((6, 7, 8), bool)
    mask[1:5, 1:5, 1:5] = True
    mask[2, 2, 2] = False
    mask[5, 6, 7] = True
    rows = list(csv.DictReader(regions_table(mask).splitlines()))
    assert [(r["kind"], int(r["voxels"])) for r in rows] == [
        ("component", 63),
        ("component", 1),
        ("cavity", 1),
    ]
    assert (rows[2]["slice"], rows[2]["row"], rows[2]["column"]) == ("2", "2", "2")
    filled = mask.copy()
    filled[2, 2, 2] = True
    drawn = draw_slices(np.zeros((6, 7, 8, 1)), mask, filled, (2, 2, 2))
    assert (drawn == [0, 114, 255]).all(axis=-1).any(), "what was added is blue"
    assert repair(np.where(mask, 0.9, 0.4)).after[2] == 0
