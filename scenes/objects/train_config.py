"""Settings of training: objective, data, optimiser, and the presets.

Guidance scales are 1 + w for the w of TRELLIS and MDT-dist: the released 40 and 100 are 41 and 101.

The preset "released" is the form of MDT-dist's public code, whose normalisation of the derivative
makes it all but a regression on the guided teacher; "mdt" is the paper's formula.  The released
trainer for sparse latents stops with an error in the modes "difference" and "jvp" (it never forms
the difference, and hands sparse objects to the derivative); ours computes what the dense one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from geo3d.config import require, require_at_least
from geo3d.distill.conventions import strength_to_scale
from scenes.objects.objectives import ObjectiveConfig


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
        require_at_least(self, 1, "batch split steps log_every checkpoint_every")
        require(self.optimiser.learning_rate > 0, "optimiser.learning_rate", "above 0")
        plain = self.objective.derivative.estimator == "difference"
        plain = plain and not self.objective.facts.has_tracker
        plain = plain and self.optimiser.torso == self.teacher_torso == "float32"
        wanted = "false but with float32 torsos, finite differences and no tracker"
        require(plain or not self.shard, "shard", wanted)
        is_complete = bool(self.teacher) or not self.objective.facts.needs_teacher
        require(is_complete, "teacher", f"given for the objective {self.objective.kind}")


_RELEASED = {
    "kind": "velocity",
    "guidance_scale": strength_to_scale(40.0),
    "distillation_weight": 1.0,
    "distillation_guidance_scale": strength_to_scale(100.0),
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
