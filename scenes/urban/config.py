"""What can be set when a street scene is built, and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from geo3d.config import require, require_at_least
from geo3d.errors import ConfigError
from geo3d.fields.hashgrid import Backend
from geo3d.fields.levels import Convention, HashGridConfig
from scenes.urban.constraints import ConstraintConfig
from scenes.urban.guidance import SampleConfig
from scenes.urban.lgvsd import LgvsdConfig
from scenes.urban.rollback import RollbackConfig
from scenes.urban.teachers.checks import ControlInput
from scenes.urban.teachers.savings import Savings

Method = Literal["sample_then_fit", "lgvsd", "vsd", "sds"]
Constrain = Literal["segments", "hull", "none"]


@dataclass(frozen=True)
class FieldConfig:
    """One field: a hash grid and small networks on top."""

    levels: int = 8
    features: int = 2
    base: int = 16
    """Resolution of the coarsest level across a cell."""
    finest: int = 512
    """Resolution of the finest level."""
    log2_rows: int = 14
    """Logarithm of the most rows a level may have."""
    hidden: int = 32
    """Width of the density network."""
    bottleneck: int = 16
    """Numbers it hands to the colour layer."""
    density_shift: float = 1.0
    """Added before the softplus: untrained matter has softplus(shift) per metre."""

    def grid(self, convention: Convention) -> HashGridConfig:
        """Return the settings of the hash grid."""
        return HashGridConfig(
            self.levels,
            self.features,
            self.base,
            self.finest,
            self.log2_rows,
            convention=convention,
        )


@dataclass(frozen=True)
class FieldsConfig:
    """The fields of a scene: cells, vehicles, sky, and where rays sample them.

    Raises:
        ConfigError: ``config.bad_value``.
    """

    cell: float = 32.0
    """Side of a cell in metres."""
    band: float = 6.0
    """Width in which neighbouring cells blend, metres."""
    stuff: FieldConfig = field(default_factory=FieldConfig)
    """Fields of cells."""
    objects: FieldConfig = field(
        default_factory=lambda: FieldConfig(levels=6, finest=128, log2_rows=12)
    )
    """Fields of movable primitives, in their unit boxes."""
    samples: int = 24
    """Intervals per ray."""
    constrain: Constrain = "segments"
    """Where rays are sampled: inside primitives, from the first surface to the last, everywhere."""
    falloff: float | None = 0.5
    """Depth in metres behind a surface at which samples lie twice as far apart; None: evenly."""
    empty_background: bool = True
    """Whether rays that meet no primitive show the sky and nothing else."""
    near: float = 0.5
    """Start of rays without constraint, metres."""
    far: float = 200.0
    """End of rays, metres."""
    multisample: bool = False
    """Six points per interval, weighted by the cone's width, against aliasing, at six times the
    cost."""
    semantics: int = 0
    """Number of classes each field predicts; 0 for none."""
    sky: Literal["mlp", "grid"] = "mlp"
    """A network, or the release's grid of colours."""
    sky_hidden: int = 64
    """Width of the sky's network."""
    convention: Convention = "gridencoder"
    """Which published layout the tables have (`geo3d.fields.levels`): the release's, or "tcnn",
    which tiny-cuda-nn can compute."""
    backend: Backend = "auto"
    """What computes the hash grids (`geo3d.fields.hashgrid.chosen_backend`): the same numbers at
    another speed; "tinycudann" needs the convention "tcnn"."""
    chunk: int = 16384
    """Rays rendered at once without gradients."""
    resident: int = 24
    """Blocks kept in memory."""
    seed: int = 0
    """Decides every field's first parameters."""
    compat: bool = False
    """Whether to do as the released code does, its defects included."""

    def __post_init__(self) -> None:
        require_at_least(self, 2, "samples")
        require_at_least(self, 1, "chunk")
        require(0 <= self.near < self.far, "near", "at least 0 and less than far")
        if self.backend == "tinycudann" and self.convention != "tcnn":
            raise ConfigError(
                "config.bad_value",
                f"tiny-cuda-nn cannot compute hash grids of the {self.convention} convention.",
                "Set fields.convention=tcnn too; a scene keeps the one it was built with.",
            )


@dataclass(frozen=True)
class ViewConfig:
    """The cameras a scene is built from."""

    spacing: float = 3.0
    """Metres between two of them along the drive."""
    turns_deg: tuple[float, ...] = (0.0, 25.0, 0.0, -25.0)
    """Cameras are turned aside by these in turn."""
    size: int = 0
    """Side of the renderings in pixels; 0 for the teacher's."""
    window: int = 12
    """Cameras worked on together, before the work moves on along the street."""
    overlap: int = 0
    """Cameras of the window before that are seen again, so that nothing of it is forgotten."""


@dataclass(frozen=True)
class FitConfig:
    """Sample, then fit: the teacher draws every view, the scene is fitted to the images."""

    steps_per_view: int = 25
    """Steps of fitting after each round, times the views of a window."""
    rays: int = 2048
    """Rays per step."""
    oversample: int = 2
    """Rays per pixel of an image, squared: one alone leaves gaps that show from nearby."""
    learning_rate: float = 5e-3
    rounds: int = 2
    """Rounds; from the second on renderings are refined by the teacher in place of noise."""
    strength: float = 0.5
    """Share of the sampling steps that a refining round runs."""
    repeats: int = 1
    """How often a refining round noises and denoises, before it is fitted."""
    distortion: float = 0.002
    """Weight of the loss that keeps matter along a ray together."""
    surface: int = 0
    """Points on visible surfaces per step whose colour is fitted beside that of the rays: one
    question each in place of one per sample (`scenes.urban.surface_fit`)."""
    final_rate: float = 1.0
    """Share of the learning rate that is left at the end of a window."""


@dataclass(frozen=True)
class OptimiseConfig:
    """Distillation: the scene is changed until its renderings please the teacher."""

    steps_per_view: int = 40
    """Steps, times the views of a window."""
    layout_steps: int = 12
    """Steps of fitting before, times the views, to the constraint losses alone; cheap, because
    the teacher is not asked."""
    layout_rate: float = 0.015
    """Learning rate of these."""
    learning_rate: float = 3e-3
    """Of the scene; higher ones diverge with small teachers."""
    tracker_rate: float = 1e-3
    """Of the tracker."""
    coarse: float = 0.3
    """Share of the steps rendered at half the size."""
    distortion: float = 0.002
    """Weight of the loss that keeps matter along a ray together."""
    fit_rounds: int = 1
    """Rounds of refining and fitting after the distillation (`FitConfig`); 0 for none."""
    rollback: RollbackConfig = field(default_factory=RollbackConfig)
    """When to go back to the last good state."""


@dataclass(frozen=True)
class OutputConfig:
    """What is made of a finished scene; 0 leaves a part out."""

    frames: int = 48
    """Images along the drive."""
    frame_size: int = 128
    """Side of a frame, pixels."""
    antialias: int = 1
    """Rays per pixel of a frame, squared."""
    frame_rate: int = 12
    """Frames per second of the film."""
    voxel: float = 0.35
    """Edge of the mesh's cubes in metres."""
    texture: int = 0
    """Texels along an edge of the mesh's texture, more where its faces need them."""
    reach: float = 40.0
    """Metres around the drive that mesh and points cover."""
    points: int = 200_000
    """Most points of the point cloud, and Gaussians."""
    measured: int = 8
    """Cameras at which the scene is compared with its layout."""
    data: bool = True
    """Whether cameras (nerfstudio, COLMAP), depth, classes and instances go with the frames."""


@dataclass(frozen=True)
class SceneConfig:
    """How a layout becomes a scene.

    Raises:
        ConfigError: ``config.bad_value``.
    """

    method: Method = "sample_then_fit"
    """Fit the teacher's images, or distil it: "lgvsd", or "vsd" and "sds" to compare."""
    prompt: str = ""
    """What it looks like ("sunny", "snowy night"); empty takes the layout's prompts."""
    teacher: str = ""
    """Who draws: "painter" (procedural), "learned" (the small shipped network), or a diffusers
    folder; empty: the painter where images are fitted, the learned one where it is distilled."""
    controlnet: str = ""
    """Folder of the ControlNet, if it is not in the teacher's."""
    control_input: ControlInput = "auto"
    """What it is shown: the layout's four channels, or, of three, segmentation or depth; "auto"
    goes by its channels and its name."""
    savings: Savings = field(default_factory=Savings)
    """What to give up for memory where the teacher is large."""
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    """The scene itself; it predicts classes where `constraints` weigh them."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """Cameras it is built from."""
    sampling: SampleConfig = field(default_factory=SampleConfig)
    """How the teacher draws."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Sample, then fit."""
    distil: LgvsdConfig = field(default_factory=LgvsdConfig)
    """Objective of distillation."""
    optimise: OptimiseConfig = field(default_factory=OptimiseConfig)
    """Course of distillation."""
    constraints: ConstraintConfig = field(default_factory=ConstraintConfig)
    """Losses that hold the scene to its layout, in every method."""
    outputs: OutputConfig = field(default_factory=OutputConfig)
    """What is made of the scene."""
    checkpoint_seconds: float = 60.0
    """Time between two states that an interrupted build can go on from."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.fit.oversample >= 1, "fit.oversample", "at least 1")
        require(self.views.spacing > 0, "views.spacing", "above 0")
        require(self.views.window >= 1, "views.window", "at least 1")
        require(self.views.overlap >= 0, "views.overlap", "at least 0")
        require(self.fit.surface >= 0, "fit.surface", "at least 0")
        require(0 < self.fit.final_rate <= 1, "fit.final_rate", "above 0 and at most 1")
        require(self.outputs.antialias >= 1, "outputs.antialias", "at least 1")
        require(self.views.size >= 0, "views.size", "at least 0")
        require(bool(self.views.turns_deg), "views.turns_deg", "at least one turn")


_DRAWN_FIELDS: Mapping[str, Any] = {
    "stuff": {"levels": 7, "finest": 512, "log2_rows": 16, "hidden": 16},
    "objects": {"levels": 6, "finest": 128, "log2_rows": 15, "hidden": 16},
    "samples": 16,
    "far": 120.0,
    "resident": 96,
}
_DRAWN_VIEWS: Mapping[str, Any] = {
    "spacing": 2.0,
    "turns_deg": [0.0, 45.0, 0.0, -45.0],
    "window": 24,
    "overlap": 6,
}
_DRAWN_FIT: Mapping[str, Any] = {
    "steps_per_view": 14,
    "rays": 768,
    "surface": 12288,
    "learning_rate": 0.01,
    "final_rate": 0.1,
    "rounds": 1,
}
_DRAWN_MESH: Mapping[str, Any] = {"voxel": 0.5, "texture": 1024}
_SMALL_FIELDS: Mapping[str, Any] = {
    # finer than a pixel of the teacher at 10 m would only hold grain
    "stuff": {"levels": 5, "finest": 128, "log2_rows": 13, "hidden": 16},
    "samples": 16,
    "far": 120.0,
    # blocks are small here, and paging them at every step costs more than the step
    "resident": 96,
}
_PUBLISHED_FIELD: Mapping[str, Any] = {
    "levels": 10,
    "features": 4,
    "finest": 8192,
    "hidden": 64,
    "bottleneck": 128,
    "density_shift": -1.0,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "demo": {
        "fields": _DRAWN_FIELDS,
        "views": _DRAWN_VIEWS,
        "fit": _DRAWN_FIT,
        "constraints": {"semantics": 0.0},
        "outputs": {"frames": 32, "frame_size": 192, "antialias": 2, **_DRAWN_MESH},
    },
    "cpu": {
        "fields": {**_DRAWN_FIELDS, "samples": 24, "far": 150.0},
        "views": {**_DRAWN_VIEWS, "spacing": 1.0, "window": 40, "overlap": 10, "size": 384},
        "fit": {**_DRAWN_FIT, "steps_per_view": 40, "rays": 1536, "surface": 16384},
        "constraints": {"semantics": 0.0},
        "outputs": {"frames": 64, "frame_size": 256, "antialias": 2, "texture": 2048},
    },
    "learned": {
        "teacher": "learned",
        "fields": _SMALL_FIELDS,
        "sampling": {"steps": 12},
        "fit": {"steps_per_view": 20},
        "optimise": {"steps_per_view": 6},
        "outputs": {"frames": 32, "voxel": 0.5},
    },
    "learned-cpu": {
        "teacher": "learned",
        "fields": {"stuff": {"levels": 7, "finest": 256}, "far": 150.0, "resident": 96},
        "views": {"spacing": 2.0},
        "sampling": {"steps": 20},
        "fit": {"steps_per_view": 40},
        "outputs": {"frames": 64, "frame_size": 160},
    },
    "smoke": {
        "fields": {**_SMALL_FIELDS, "samples": 8},
        "views": {"spacing": 12.0, "window": 4, "size": 16},
        "sampling": {"steps": 2},
        "fit": {"steps_per_view": 2, "rays": 256, "rounds": 1},
        "optimise": {"steps_per_view": 1, "layout_steps": 1, "fit_rounds": 0},
        "outputs": {"frames": 3, "frame_size": 24, "voxel": 2.0, "points": 2000, "measured": 2},
    },
    "published": {
        "method": "lgvsd",
        "fields": {
            "cell": 400.0,
            "band": 0.0,
            "stuff": {**_PUBLISHED_FIELD, "log2_rows": 21},
            "objects": {**_PUBLISHED_FIELD, "log2_rows": 14},
            "samples": 32,
            "constrain": "hull",
            "falloff": None,
            "empty_background": False,
            "multisample": True,
            "sky": "grid",
            "compat": True,
        },
        # every fifth camera of KITTI-360, all of them together, turned by up to 15 degrees
        "views": {"spacing": 3.2, "turns_deg": [0.0, 7.5, -7.5, 15.0, -15.0], "window": 1000},
        "sampling": {"steps": 50, "guidance_scale": 7.5, "shared_noise": False},
        "distil": {
            "pairs": 1,
            "guidance_scale": 7.5,
            "tracker": "low_rank",
            "tracker_from": 0.0,
            "tracker_detail": 0,
            "t_range": [0.02, 0.98],
            "t_max_end": None,
            "compat": True,
        },
        # 100,000 steps for the 100 cameras of the largest sample, all at half the size (256)
        "optimise": {
            "steps_per_view": 1000,
            "layout_steps": 0,
            "learning_rate": 1e-3,
            "tracker_rate": 1e-3,
            "coarse": 1.0,
            "distortion": 0.0,
        },
        # the layout-aware refinement, at 512; rounds after the first halve the rate, to 1e-3
        "fit": {
            "steps_per_view": 1000,
            "rays": 16384,
            "learning_rate": 2e-3,
            "strength": 0.1,
            "repeats": 2,
            "distortion": 0.1,
        },
        "constraints": {"density": 0.0, "depth": 0.0, "semantics": 0.0},
        "outputs": {"frame_size": 512},
    },
}
"""By cost: "smoke" shows that all runs, "demo" takes a minute or two, "cpu" half an hour for 60 m;
"learned" and "learned-cpu" are those for the small shipped network; "published" is the release, its
defects included, for a teacher of Stable Diffusion's size."""
