"""Training and measuring on classes, regions, volumes and ignored pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geo3d.config import config_from_dict
from geo3d.errors import InputError
from geo3d.segmentation.benchmark import (
    BenchmarkConfig,
    grid,
    published_beside,
    run_cell,
    tabulate_kinds,
    write_groups,
)
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.data import generated_dataset
from geo3d.segmentation.kinds import IGNORED, DataKind
from geo3d.segmentation.measures import (
    check_kind,
    evaluate_segmenter,
    read_measures,
    write_measures,
)
from geo3d.segmentation.predict import load_segmenter
from geo3d.segmentation.samples import Dataset, GeneratedItem, Sample
from geo3d.segmentation.train import load_samples, train_segmenter

TINY = {
    "network": {"filters": (4, 4, 4)},
    "iterations": 6,
    "generations": 2,
    "batch": 1,
    "crop": 16,
    "validate_every": 3,
}
CLASSES = DataKind(("background", "left", "right"), channels=1)
REGIONS = DataKind(("whole", "core"), ((1, 2), (2,)), channels=2)


class Drawn(GeneratedItem):
    """Two squares of 16 bits, with a rim that is not annotated."""

    kind = CLASSES

    def load(self) -> Sample:
        draws = np.random.default_rng(self.seed)
        labels = np.zeros((24, 24), np.uint8)
        labels[4:12, 4:12], labels[10:20, 10:20] = 1, 2
        labels[:2] = IGNORED
        levels = 20_000.0 * labels[..., None] + draws.normal(0, 900, (24, 24, self.size))
        return Sample(np.clip(levels, 0, 65535).astype(np.uint16), labels)


def dataset(kind: DataKind) -> Dataset:
    items = tuple(Drawn(f"{k}", "all", k, kind.channels) for k in range(4))
    return Dataset("squares", items[:2], items[2:3], items[3:], kind=kind)


@pytest.mark.parametrize("kind", [CLASSES, REGIONS], ids=["classes", "regions"])
@pytest.mark.parametrize("framework", ["supervised", "selfdistillation"])
def test_classes_and_regions_go_all_the_way(kind: DataKind, framework: str, tmp_path: Path) -> None:
    config = config_from_dict(SegmentationConfig, {**TINY, "framework": framework})
    trained = train_segmenter(config, dataset(kind), tmp_path, device="cpu")
    again = load_segmenter(tmp_path / "segmenter.safetensors", "cpu")
    assert again.kind == kind
    image = dataset(kind).test[0].load().image
    found = again.predict(image)
    np.testing.assert_array_equal(found.probabilities, trained.predict(image).probabilities)
    assert list(found.masks) == list(kind.foreground)
    means, measures = evaluate_segmenter(again, dataset(kind).test)
    assert f"Dice {kind.foreground[0]}" in means["all"]
    read = read_measures(write_measures(measures, tmp_path / "0.csv"))
    assert set(read.classes) == set(kind.foreground)
    np.testing.assert_array_equal(read.values["Dice"], measures.values["Dice"])


def test_ignored_pixels_teach_nothing(tmp_path: Path) -> None:
    """What an image shows where nothing counts changes the input, never the target."""
    config = config_from_dict(SegmentationConfig, {**TINY, "augmentation": "none"})
    trained = train_segmenter(config, dataset(CLASSES), tmp_path / "a", device="cpu")
    assert trained.info["numbers"]["loss"] < 2
    sample = dataset(CLASSES).test[0].load()
    assert sample.counts is not None and not sample.counts[:2].any()


def test_volumes_go_all_the_way(tmp_path: Path) -> None:
    config = config_from_dict(SegmentationConfig, {**TINY, "augmentation": "published"})
    tubes = generated_dataset(2, 1, 1, 32, what="tubes")
    trained = train_segmenter(config, tubes, tmp_path, device="cpu")
    found = trained.predict(tubes.test[0].load().image)
    assert found.mask.shape == (32, 32, 32)
    tiled = trained.predict(tubes.test[0].load().image, tile=24, overlap=8)
    assert np.abs(tiled.probabilities.sum(axis=0) - 1).max() < 1e-5
    means, _ = evaluate_segmenter(trained, tubes.test)
    assert {"Betti2", "Euler", "SurfaceDice"} <= set(means["ID"])
    with pytest.raises(InputError, match=r"segmenter\.other_kind"):
        check_kind(trained, generated_dataset(1, 1, 1, 32))


def test_it_learns_classes_and_regions(tmp_path: Path) -> None:
    for kind in (CLASSES, REGIONS):
        values = {**TINY, "iterations": 120, "augmentation": "none", "validate_every": 0}
        values |= {"momentum": 0.9, "learning_rate": 0.05, "network": {"filters": (8, 8, 8)}}
        config = config_from_dict(SegmentationConfig, values)
        trained = train_segmenter(config, dataset(kind), tmp_path / kind.classes[0], device="cpu")
        means, _ = evaluate_segmenter(trained, dataset(kind).test)
        assert means["all"]["Dice"] > 0.8, kind


def test_a_note_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Noted(GeneratedItem):
        def load(self) -> Sample:
            found = super().load()
            return Sample(found.image, found.mask, ("converted from L",))

    with caplog.at_level("WARNING"):
        load_samples([Noted(f"{k}", "indistr", k, 16) for k in range(5)])
    assert [r.getMessage() for r in caplog.records] == ["5 images (0, 1, 2, ...): converted from L"]


def test_kinds_of_drawn_data_have_tables_of_their_own(tmp_path: Path) -> None:
    training = {**TINY, "iterations": 2, "generations": 1, "validate_every": 0, "crop": 32}
    values = {"drawn": ("vessels", "tubes"), "losses": ("ce_dice",), "seeds": 1, "walls": (2, 1, 4)}
    sizes = {"wall_side": 32, "volume_side": 32, "volume_crop": 16}
    config = config_from_dict(BenchmarkConfig, {**values, **sizes, "training": training})
    cells = grid(config)
    assert [cell.name for cell in cells] == [
        "vessels/supervised/accurate/large/ce_dice/0",
        "tubes/supervised/accurate/large/ce_dice/0",
    ]
    write_groups(config, cells, tmp_path)
    for cell in cells:
        run_cell(config, cell, tmp_path)
    found = tabulate_kinds(cells, tmp_path)
    assert {row["data"] for row in found["measured"]} == {"vessels", "tubes"}
    assert found["train_cpu_s"]["tubes"]["ce_dice"] > 0
    text = (tmp_path / "tables.md").read_text()
    assert "# Vessels" in text and "# Tubes" in text and "CPU s" in text
    assert published_beside(config) == []


def test_published_numbers_stand_beside_topomortar_only(tmp_path: Path) -> None:
    """A folder in its layout, with its names, but other pictures.

    Case `published_beside_other_data`.
    """
    for part, names in (("train", ["001"]), ("val", ["051"]), ("test", ["071", "121"])):
        for name in names:
            for folder in ("images", "accurate"):
                (tmp_path / part / folder).mkdir(parents=True, exist_ok=True)
                mask = np.zeros((16, 16), np.uint8)
                mask[3] = 255
                Image.fromarray(mask).save(tmp_path / part / folder / f"{name}.png")
    rows = ["ID,group", "001,indistr", "051,indistr", "071,indistr", "121,angles"]
    (tmp_path / "dataset_types.txt").write_text("\n".join(rows) + "\n")
    lists = {"train": ["001"], "val": ["051"], "test": ["071", "121"]}
    lines = ["1:"]
    for part, names in lists.items():
        lines += [f"  {part}:", *(f"  - dataset/{part}/images/{name}.png" for name in names)]
    (tmp_path / "splits.yaml").write_text("\n".join(lines) + "\n")
    assert published_beside(config_from_dict(BenchmarkConfig, {"data": str(tmp_path)})) == []


@pytest.mark.data
def test_published_numbers_stand_beside_topomortar(data_root: Path) -> None:
    config = config_from_dict(BenchmarkConfig, {"data": str(data_root / "topomortar")})
    assert published_beside(config)


def test_one_item_of_many_channels_is_normalised_per_channel() -> None:
    from geo3d.segmentation.predict import channel_statistics

    image = torch.rand(5, 6, 7, 2).numpy()
    mean, deviation = channel_statistics(image)
    np.testing.assert_allclose(mean, image.reshape(-1, 2).mean(0), rtol=1e-6)
    np.testing.assert_allclose(deviation, image.reshape(-1, 2).std(0), rtol=1e-5)
