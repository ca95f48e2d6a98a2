"""Settings of training: which objective, at what times, with what optimiser, from which folders.

Notation: t in [0, 1], 0 at data; w the guidance weight of the teacher (v + w (v - v_negative)).

The preset "released" is the form of MDT-dist's public code, whose normalisation of the derivative
makes it all but a regression on the guided teacher; "mdt" is the paper's formula.  The released
trainer for sparse latents stops with an error in the modes "difference" and "jvp" (it never forms
the difference, and hands sparse objects to the derivative); ours computes what the dense one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from geo3d.distill.derivatives import Derivative
from geo3d.distill.flow import SIGMA_MIN, TimeLaw
from geo3d.errors import ConfigError

Kind = Literal[
    "flow_matching",
    "regression",
    "velocity",
    "consistency",
    "scm",
    "meanflow",
    "eulerian",
    "lagrangian",
    "data_free",
    "boot",
    "distribution",
]
TWO_TIMES = ("meanflow", "eulerian", "lagrangian", "data_free", "boot")
"""Objectives whose student is told where its jump ends."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the student learns; the defaults are the paper's velocity matching + distillation."""

    kind: Kind = "velocity"
    """flow_matching: the path itself (trains teachers).  regression: the teacher's guided velocity
    (guidance distillation).  velocity: MDT-dist.  consistency: CM, with ``phases`` above 1 PCM.
    scm: continuous-time consistency.  meanflow: the Eulerian identity, teacher or not.  eulerian,
    lagrangian: self-distillation where there is no teacher, else flow-map distillation.  data_free,
    boot: maps from noise alone.  distribution: DMD2's, without a discriminator."""
    guidance: float = 0.0
    """w of the teacher's velocity."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times at which the teacher is guided, both ends included."""
    time: TimeLaw = field(default_factory=TimeLaw)
    sigma_min: float = SIGMA_MIN
    derivative: Derivative = field(default_factory=Derivative)
    matching_weight: float = 1.0
    """Of the loss at noised data."""
    distillation_weight: float = 0.0
    """Of velocity distillation: the same residual at the student's own samples."""
    distillation_guidance: float | None = None
    """w there; None means ``guidance``."""
    distillation_factor: Literal["one", "one_minus_t"] = "one"
    """Weight over time there: as released, or the paper's."""
    distillation_noise: Literal["shared", "fresh"] = "shared"
    """Whether it noises with the noise and time of the other loss, as released."""
    phases: int = 1
    """Phases of consistency; more than 1 needs as many steps or more."""
    warmup_steps: int = 0
    """Steps over which scm turns from regression to consistency."""
    diagonal_share: float = 0.25
    """Share of the items whose jump has no length (meanflow, eulerian, lagrangian)."""
    adaptive_power: float = 0.0
    """Power of MeanFlow's adaptive weight; 0 is none, published 1."""
    student_steps: int = 1
    """Steps of the student's own sampling (distribution)."""
    tracker_updates: int = 5
    """Updates of the tracker per update of the student (distribution)."""
    tracker_learning_rate: float = 1e-4
    drop_condition: float = 0.0
    """Share of the items whose condition is replaced by zeros; teachers need some for guidance."""

    def __post_init__(self) -> None:
        positive = ("phases", "student_steps", "tracker_updates")
        for name in positive:
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
        for name in ("matching_weight", "distillation_weight", "guidance", "warmup_steps"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative")
        low, high = self.guidance_interval
        _require(0 <= low <= high <= 1, "guidance_interval must lie in [0, 1]")
        _require(0 <= self.drop_condition <= 1, "drop_condition must lie in [0, 1]")
        _require(0 < self.derivative.interval < 0.5, "derivative.interval must lie in (0, 0.5)")
        one_time = ("velocity", "consistency", "scm")
        _require(
            self.distillation_weight == 0 or self.kind in one_time,
            f"distillation_weight belongs to {', '.join(one_time)}",
        )

    @property
    def has_two_times(self) -> bool:
        """Whether the student is told the end of its jump."""
        return self.kind in TWO_TIMES

    @property
    def lowest(self) -> float:
        """Smallest time drawn."""
        uses_step = self.kind in ("consistency", "boot")
        reach = self.derivative.interval if uses_step else self.derivative.reach
        plain = self.kind in ("flow_matching", "regression", "distribution")
        return self.sigma_min + (0.0 if plain else reach)


@dataclass(frozen=True)
class DataConfig:
    """Folders of latents and of the condition's tokens, paired by file name."""

    latents: str = ""
    """Folder of ``NAME.npz``: ``mean`` (c, r, r, r), or ``coords`` (n, 3) and ``feats`` (n, c)."""
    conditions: str = ""
    """Folder of ``NAME.npz`` with ``tokens`` (views, l, c) or (l, c); one view is drawn per use."""
    mean: tuple[float, ...] = ()
    """Subtracted from each channel; none by default."""
    std: tuple[float, ...] = ()
    """Divides each channel."""
    max_voxels: int = 32_768
    """Sparse latents with more are left out."""
    hold_out: int = 0
    """The last files by name are not trained on."""
    cache_bytes: int = 1 << 30
    """Memory for files already read."""


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW, its gradients and averages."""

    learning_rate: float = 1e-5
    warmup_steps: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    """Stay, or fall to 0 along a cosine."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    """Largest norm of the gradient; None leaves it to the percentile."""
    clip_percentile: float = 95.0
    """Of the last norms; lowers the limit."""
    clip_memory: int = 1000
    """How many norms are remembered; nothing is lowered before."""
    average_rates: tuple[float, ...] = (0.999,)
    """Running averages of the weights, which begin at the loaded weights."""
    torso: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type the student's torso runs in; its masters stay float32."""
    initial_log_scale: float = 20.0
    """Power of two that the loss is multiplied by in float16."""
    scale_growth: float = 1e-3
    """Added to it after every finite step; 1 is taken off after any other."""


@dataclass(frozen=True)
class DistillConfig:
    """Settings of `train`."""

    teacher: str = ""
    """Model file without its ending (NAME of NAME.json and NAME.safetensors); empty for none."""
    student: str = ""
    """Model file the student starts from; empty means the teacher, or ``network`` at random."""
    network: Literal["dense", "sparse"] = "dense"
    """Kind of a network that starts at random."""
    arguments: tuple[str, ...] = ()
    """Its settings as KEY=VALUE."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    teacher_torso: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type the teacher's torso runs in."""
    shard: bool = False
    """With several processes: spread student and teacher over them (FSDP2) instead of keeping them
    whole in each.  For float32 torsos, finite differences, and objectives without a tracker."""
    batch: int = 8
    """Items per step, over all processes."""
    split: int = 1
    """Parts each process takes them in, one after the other."""
    steps: int = 1000
    export_steps: tuple[int, ...] = (1, 2)
    """Numbers of sampling steps that a student with two times is written for."""
    export: Literal["float32", "float16"] = "float32"
    """Precision of the student on disk; a short training may be lost in float16."""
    log_every: int = 10
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "split", "steps", "log_every", "checkpoint_every"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
        _require(self.optimiser.learning_rate > 0, "learning_rate must be positive")
        plain = self.objective.derivative.estimator == "difference"
        plain = plain and self.objective.kind != "distribution"
        plain = plain and self.optimiser.torso == self.teacher_torso == "float32"
        _require(
            plain or not self.shard,
            "shard goes with float32 torsos, finite differences and no tracker",
        )
        needs = ("regression", "velocity", "consistency", "scm", "data_free", "boot")
        missing = self.objective.kind in (*needs, "distribution") and not self.teacher
        _require(not missing, f"the objective {self.objective.kind} needs a teacher")


_RELEASED = {
    "kind": "velocity",
    "guidance": 40.0,
    "distillation_weight": 1.0,
    "distillation_guidance": 100.0,
    "derivative": {"estimator": "difference", "interval": 0.01, "norm": "unit_l2"},
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "teacher": {
        "objective": {"kind": "flow_matching", "drop_condition": 0.1},
        "optimiser": {"learning_rate": 1e-4, "warmup_steps": 100, "decay": "cosine"},
    },
    "released": {
        "objective": _RELEASED,
        "optimiser": {"learning_rate": 4e-8, "average_rates": [0.9999]},
        "split": 2,
        "steps": 6000,
    },
    "mdt": {
        "objective": {"kind": "velocity", "distillation_weight": 1.0},
    },
    "regression": {"objective": {"kind": "regression"}},
    "cm": {"objective": {"kind": "consistency"}},
    "pcm": {"objective": {"kind": "consistency", "phases": 2}},
    "scm": {
        "objective": {"kind": "scm", "warmup_steps": 200, "derivative": {"estimator": "jvp"}},
    },
    "meanflow": {
        "objective": {
            "kind": "meanflow",
            "adaptive_power": 1.0,
            "derivative": {"estimator": "jvp"},
        },
    },
    "data_free": {"objective": {"kind": "data_free"}},
    "boot": {"objective": {"kind": "boot", "derivative": {"interval": 0.04}}},
    "dmd": {"objective": {"kind": "distribution"}},
}
"""Named objectives: teachers, MDT-dist as released and as published, and its rivals."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError("config.bad_value", f"{message[0].upper()}{message[1:]}.", "")
