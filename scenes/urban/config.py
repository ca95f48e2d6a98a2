"""What can be set when a street scene is built, and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from geo3d.errors import ConfigError
from scenes.urban.constraints import ConstraintConfig
from scenes.urban.guidance import SampleConfig
from scenes.urban.lgvsd import LgvsdConfig
from scenes.urban.rollback import RollbackConfig
from scenes.urban.scene_config import SceneConfig as FieldsConfig

Method = Literal["sample_then_fit", "lgvsd", "vsd", "sds"]


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


@dataclass(frozen=True)
class FitConfig:
    """Sample, then fit: the teacher draws every view, the scene is fitted to the pictures."""

    steps_per_view: int = 25
    """Steps of fitting after each round, times the views of a window."""
    rays: int = 2048
    """Rays per step."""
    oversample: int = 2
    """Rays per pixel of a picture, squared: one alone leaves gaps that show from nearby."""
    learning_rate: float = 5e-3
    rounds: int = 2
    """Rounds; from the second on renderings are refined by the teacher in place of noise."""
    strength: float = 0.5
    """Share of the sampling steps that a refining round runs."""
    distortion: float = 0.002
    """Weight of the loss that keeps matter along a ray together."""


@dataclass(frozen=True)
class OptimiseConfig:
    """Distillation: the scene is changed until its renderings please the teacher."""

    steps_per_view: int = 40
    """Steps, times the views of a window."""
    layout_steps: int = 12
    """Steps of fitting before, times the views, to what the layout demands alone; cheap, because
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
    """Pictures along the drive."""
    frame_size: int = 128
    """Side of a frame, pixels."""
    frame_rate: int = 12
    """Frames per second of the film."""
    voxel: float = 0.35
    """Edge of the mesh's cubes in metres."""
    reach: float = 40.0
    """Metres around the drive that mesh and points cover."""
    points: int = 200_000
    """Most points of the point cloud, and Gaussians."""
    measured: int = 8
    """Cameras at which the scene is compared with its layout."""


@dataclass(frozen=True)
class SceneConfig:
    """How a layout becomes a scene.

    Raises:
        ConfigError: ``config.bad_value``.
    """

    method: Method = "sample_then_fit"
    """Fit the teacher's pictures, or distil it: "lgvsd", or "vsd" and "sds" to compare."""
    prompt: str = ""
    """What it looks like ("sunny", "snowy night"); empty takes the layout's prompts."""
    teacher: str = ""
    """Diffusers folder of the teacher; empty for the shipped one."""
    controlnet: str = ""
    """Folder of the ControlNet, if it is not in the teacher's."""
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    """The scene itself; it predicts classes where `constraints` demand them."""
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
    """What the layout demands, in every method."""
    outputs: OutputConfig = field(default_factory=OutputConfig)
    """What is made of the scene."""
    checkpoint_seconds: float = 60.0
    """Time between two states that an interrupted build can go on from."""
    seed: int = 0

    def __post_init__(self) -> None:
        views = self.views
        if self.fit.oversample < 1:
            raise ConfigError("config.bad_value", "fit.oversample must be 1 or more.", "")
        if views.spacing <= 0 or views.window < 1 or not views.turns_deg or views.size < 0:
            raise ConfigError(
                "config.bad_value",
                "Views need a spacing above 0, a window of one or more, and a turn.",
                f"spacing {views.spacing}, window {views.window}, size {views.size}.",
            )


_SMALL_FIELDS: Mapping[str, Any] = {
    # finer than a pixel of the teacher at 10 m would only hold grain
    "stuff": {"levels": 5, "finest": 128, "log2_rows": 13, "hidden": 16},
    "samples": 16,
    "far": 120.0,
    # blocks are small here, and paging them at every step costs more than the step
    "resident": 96,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "demo": {
        "fields": _SMALL_FIELDS,
        "sampling": {"steps": 12},
        "fit": {"steps_per_view": 20},
        "optimise": {"steps_per_view": 6},
        "outputs": {"frames": 32, "voxel": 0.5},
    },
    "cpu": {
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
        "fields": {"cell": 100.0, "samples": 32, "multisample": True},
        "views": {"spacing": 0.7, "turns_deg": [0.0]},
        "sampling": {"steps": 50, "guidance_scale": 7.5, "shared_noise": False},
        "distil": {
            "pairs": 1,
            "guidance_scale": 7.5,
            "tracker": "low_rank",
            "tracker_from": 0.0,
            "tracker_detail": 0,
            "t_range": [0.02, 0.98],
            "t_max_end": None,
        },
        "optimise": {"steps_per_view": 500, "layout_steps": 0},
        "outputs": {"frame_size": 512},
    },
}
"""By cost: "smoke" shows that all runs, "demo" takes minutes, "cpu" half an hour for 60 m;
"published" has the release's settings for a teacher of Stable Diffusion's size."""
