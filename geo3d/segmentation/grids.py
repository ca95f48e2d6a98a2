"""The grid of a benchmark: losses x frameworks x labels x sizes x seeds, and each cell's images.

    results/<framework>/<labels>/<size>/<loss>/<seed>.csv    one run, see `measures`
    results/groups.csv                                       group of each test image
    cells/<framework>/<labels>/<size>/<loss>/<seed>/         its segmenter, log and masks
    <kind>/results/ ...                                      of several kinds of drawn data
    failures/                                                see `geo3d.work.runner`

A run is a cell of the grid.  Its CSV is written last and whole, so a cell with a CSV is finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from geo3d.config import require, require_at_least
from geo3d.errors import ConfigError
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.segmentation import config as training_config
from geo3d.segmentation import data as data_sets
from geo3d.segmentation.config import DataConfig, Framework, SegmentationConfig
from geo3d.segmentation.data import LabelKind, TrainingSize, generated_dataset
from geo3d.segmentation.samples import DRAWN, Dataset
from geo3d.segmentation.tables import (
    Setting,
)
from geo3d.work.slurm import EngineName, SlurmConfig


@dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of a benchmark."""

    data: str = ""
    """Folder of images and masks in any known layout; empty for drawn images."""
    groups: str = ""
    """Table of the images' groups (ID,group), if it does not lie in the folder."""
    drawn: tuple[str, ...] = ("walls",)
    """Kinds of drawn data, keys of `geo3d.segmentation.samples.DRAWN`; tables are made of each."""
    losses: tuple[str, ...] = ("ce_dice", "cl_dice")
    """Keys of `geo3d.topology.losses.catalogue.LOSSES`, or "package.module:function"."""
    frameworks: tuple[Framework, ...] = ("supervised",)
    labels: tuple[LabelKind, ...] = ("accurate",)
    sizes: tuple[TrainingSize, ...] = ("large",)
    seeds: int = 3
    """Trainings of each setting."""
    seed: int = 0
    """The first seed; the others follow it."""
    workers: int = 1
    """Cells at a time, each with one thread."""
    device: str = "auto"
    engine: EngineName = "local"
    """Processes of this machine, or jobs of a cluster."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """What to ask the cluster for."""
    published_metrics: bool = False
    """Rules of the published code for empty masks, for numbers beside published ones."""
    save_masks: bool = True
    wall_side: int = 256
    """Of drawn images, in pixels."""
    volume_side: int = 48
    """Of drawn volumes, in voxels."""
    walls: tuple[int, int, int] = (24, 4, 14)
    """Drawn images for training, validation and test, of each kind."""
    volume_network: tuple[int, ...] = ()
    """Filters of the network for drawn volumes; empty: those of `training`."""
    volume_crop: int | None = None
    """Crop of drawn volumes; None: that of `training`."""
    training: SegmentationConfig = field(default_factory=SegmentationConfig)
    """What all cells share; loss, framework and seed are those of the cell."""

    def __post_init__(self) -> None:
        for name in ("losses", "frameworks", "labels", "sizes", "drawn"):
            values = getattr(self, name)
            once = len(set(values)) == len(values) > 0
            require(once, name, "a list that is not empty and names nothing twice")
        require_at_least(self, 1, "seeds workers")
        require(min(self.walls) >= 1, "walls", "at least 1")
        known = bool(self.data) or (self.labels, self.sizes) == (("accurate",), ("large",))
        require(known, "labels and sizes", "accurate and large for drawn data")
        require(set(self.drawn) <= set(DRAWN), "drawn", f"among {', '.join(DRAWN)}")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    name: {"training": training_config.PRESETS[name]} for name in ("paper", "cpu", "quick", "smoke")
}
PRESETS = {
    **PRESETS,
    "paper": {**PRESETS["paper"], "seeds": 10},
    "quick": {
        **PRESETS["quick"],
        "wall_side": 128,
        "volume_side": 48,
        "volume_network": (8, 16, 32),
        "volume_crop": 24,
        "walls": (16, 1, 12),
        "save_masks": False,
    },
    "smoke": {**PRESETS["smoke"], "seeds": 2, "wall_side": 96, "walls": (6, 1, 14)},
}
"""Named settings: those of training with as many seeds as fit."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    setting: Setting
    seed: int
    drawn: str = "walls"
    """Kind of the images if they are drawn."""
    below: str = ""
    """Folder of its kind of data; empty where there is one kind."""

    @property
    def path(self) -> Path:
        """Where it lies below ``results`` and ``cells``, without suffix."""
        s = self.setting
        return Path(s.framework, s.labels, s.size, s.loss.replace(":", "."), str(self.seed))

    @property
    def name(self) -> str:
        """Of the cell in the grid."""
        return str(Path(self.below) / self.path)


def grid(config: BenchmarkConfig) -> list[Cell]:
    """Return all cells, seed by seed: a benchmark that is stopped is complete in its first seeds.

    Of several kinds of drawn data, a loss for images only has no cells of volumes.

    Raises:
        ConfigError: ``segmenter.unknown_loss``, and those of `geo3d.segmentation.own_code`.
    """
    from geo3d.segmentation.train import find_loss

    kinds = ("",) if config.data else config.drawn
    # What the images in a folder are like is known when they have been looked at.
    sizes = {kind: DRAWN[kind].dimensions if kind else None for kind in kinds}
    judged = {kind: [x for x in config.losses if _judges(x, sizes[kind])] for kind in kinds}
    for loss in config.losses:
        if not any(loss in names for names in judged.values()):
            find_loss(loss, sizes[kinds[0]])
    seeds = range(config.seed, config.seed + config.seeds)
    return [
        Cell(Setting(*names), seed, kind or "walls", kind if len(kinds) > 1 else "")
        for seed, kind in product(seeds, kinds)
        for names in product(config.frameworks, config.labels, config.sizes, judged[kind])
    ]


def _judges(loss: str, dimensions: int | None) -> bool:
    from geo3d.segmentation.train import find_loss

    try:
        find_loss(loss, dimensions)
    except ConfigError as error:
        if error.code == "segmenter.unknown_loss":
            return False
        raise
    return True


def open_dataset(
    config: BenchmarkConfig,
    setting: Setting,
    drawn: str = "walls",
    progress: ProgressCallback = ignore_progress,
) -> Dataset:
    """Return the images of a setting.

    Raises:
        InputError, FileFormatError: see `geo3d.segmentation.data.open_dataset`.
    """
    if not config.data:
        is_volume = DRAWN[drawn].dimensions == 3
        side = config.volume_side if is_volume else config.wall_side
        return generated_dataset(*config.walls, side, what=drawn)
    labels, size = setting.labels, setting.size
    data = DataConfig(config.data, config.groups, labels=labels, size=size)  # type: ignore[arg-type]
    return data_sets.open_dataset(data, progress)


def open_all(config: BenchmarkConfig, cells: Sequence[Cell]) -> dict[str, Dataset]:
    """Return the images of all cells, by the cells' `data_key`; folders are looked at once.

    Raises:
        ConfigError: ``segmenter.unknown_loss`` for one that does not judge these dimensions.
        InputError, FileFormatError: see `geo3d.segmentation.data.open_dataset`.
    """
    from geo3d.segmentation.train import find_loss

    found: dict[str, Dataset] = {}
    for cell in cells:
        if data_key(cell) not in found:
            found[data_key(cell)] = open_dataset(config, cell.setting, cell.drawn)
        find_loss(cell.setting.loss, found[data_key(cell)].kind.dimensions)
    return found


def data_key(cell: Cell) -> str:
    """Return what cells with the same images have in common."""
    return f"{cell.drawn}/{cell.setting.labels}/{cell.setting.size}"


def is_finished(cell: Cell, folder: Path) -> bool:
    """Tell whether a cell has its results."""
    return (folder / cell.below / "results" / f"{cell.path}.csv").is_file()
