"""The methods of distillation that are compared, and how each is trained at the same cost.

The cost of a training is counted in network evaluations: an item that passes a flow network,
student or teacher, counts 1; a pass that carries a tangent along counts 2; a backward pass counts
2.  Every student of a stage gets the same number of evaluations, the same batch, optimiser and
order of objects, so an expensive objective takes fewer steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from geo3d.config import load_config
from geo3d.distill.derivatives import Derivative
from geo3d.errors import ConfigError
from scenes.objects.objectives import ObjectiveConfig
from scenes.objects.samplers import Student
from scenes.objects.train_config import DistillConfig, OptimiserConfig

FlowStage = Literal["structure", "latent"]
STAGES: tuple[FlowStage, ...] = ("structure", "latent")
_JVP = Derivative("jvp")
_SCM_RISE = 0.2
"""Share of sCM's steps over which it turns from regression to consistency."""


class Method(NamedTuple):
    """A way to make a few-step student."""

    title: str
    objective: Mapping[str, Any]
    """Settings of `ObjectiveConfig`."""
    sampling: Student = "velocity"
    """Of `SamplerConfig.student`."""


_VELOCITY: Mapping[str, Any] = {"kind": "velocity", "distillation_weight": 1.0}
METHODS: Mapping[str, Method] = {
    "regression": Method("guidance-distilled", {"kind": "regression"}),
    "cm": Method("CM", {"kind": "consistency"}, "jump"),
    "pcm": Method("PCM, 2 phases", {"kind": "consistency", "phases": 2}),
    "scm": Method("sCM", {"kind": "scm", "derivative": _JVP}, "jump"),
    "meanflow": Method("MeanFlow", {"kind": "meanflow", "adaptive_power": 1.0, "derivative": _JVP}),
    "mdt_released": Method(
        "MDT as released (unit L2)", {**_VELOCITY, "derivative": Derivative(norm="unit_l2")}
    ),
    "mdt_unit_rms": Method(
        "MDT, unit RMS", {**_VELOCITY, "derivative": Derivative(norm="unit_rms")}
    ),
    "vm": Method("VM alone, exact derivative", {"kind": "velocity", "derivative": _JVP}),
    "vm_vd": Method("VM + VD, exact derivative", {**_VELOCITY, "derivative": _JVP}),
}
"""Trained students by name."""


@dataclass(frozen=True)
class ComparisonConfig:
    """What is compared, on what, at which cost."""

    work: str = ""
    """Folder of the stages of `geo3d train objects`, with trained flows."""
    cells: str = ""
    """Folder of cells of objects that nothing was trained on."""
    grid: str = "objects-comparison"
    """Where students and samples are kept; given again, the comparison goes on there."""
    methods: tuple[str, ...] = tuple(METHODS)
    structure_evaluations: int = 150_000
    """Network evaluations of a student's training; see the module."""
    latent_evaluations: int = 30_000
    structure_batch: int = 16
    latent_batch: int = 4
    learning_rate: float = 2e-4
    training_seed: int = 0
    objects: int = 200
    """The first ones of the cells."""
    seeds: int = 3
    """Samples per object."""
    steps: tuple[int, ...] = (1, 2)
    """Of the students, in both stages."""
    points: int = 10_000
    """On each surface; so many lie about 0.007 from the nearest of another such choice."""
    threshold: float = 0.02
    """Of the F-score; the longest side of an object is 1."""
    least_piece: float = 0.9
    """An object whose largest piece holds less of its cells is fragmented."""
    chunk: int = 5
    """Objects per file of samples."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise ConfigError(
                "comparison.unknown_method",
                f"There is no method {', '.join(unknown)}.",
                f"Known: {', '.join(METHODS)}.",
            )
        counts = ("structure_evaluations", "latent_evaluations", "objects", "seeds", "chunk")
        for name in (*counts, "structure_batch", "latent_batch", "points"):
            if getattr(self, name) < 1:
                raise ConfigError("config.bad_value", f"{name} must be at least 1.", "")


class Passes(NamedTuple):
    """How often an item passes the networks in a training step."""

    forward: int
    tangents: int
    """Forward passes among them that carry a tangent."""
    backward: int

    @property
    def evaluations(self) -> int:
        """The cost, as the module counts it."""
        return self.forward + self.tangents + 2 * self.backward


def passes(objective: ObjectiveConfig) -> Passes:
    """Return the passes of a step for the objectives of `METHODS`.

    A batch is taken to hold an item whose teacher is guided, which makes both branches run.
    """
    field = 2 if objective.guidance_scale > 1 else 1
    tangents = int(objective.derivative.estimator == "jvp" and objective.kind != "regression")
    # the teacher, the student with gradients, and the student elsewhere or with a tangent
    residual = field + 1 + (objective.kind != "regression")
    if not objective.distillation_weight:
        return Passes(residual, tangents, 1)
    return Passes(2 * residual + 1, 2 * tangents, 2)


def student_config(config: ComparisonConfig, name: str, stage: FlowStage) -> DistillConfig:
    """Return the training of a method's student of one stage.

    Teacher, latents, guidance and timestep distribution are those of the shipped student's recipe.

    Raises:
        ConfigError: ``config.no_file`` and others of reading the recipe.
    """
    recipe = load_config(DistillConfig, Path(config.work) / "latents" / f"{stage}-student.yaml")
    base = recipe.objective
    objective = ObjectiveConfig(
        guidance_scale=base.guidance_scale,
        guidance_interval=base.guidance_interval,
        time=base.time,
        sigma_min=base.sigma_min,
        **METHODS[name].objective,
    )
    batch = config.structure_batch if stage == "structure" else config.latent_batch
    cost = config.structure_evaluations if stage == "structure" else config.latent_evaluations
    steps = max(cost // (batch * passes(objective).evaluations), 1)
    if objective.kind == "scm":
        objective = replace(objective, warmup_steps=round(_SCM_RISE * steps))
    return replace(
        recipe,
        objective=objective,
        optimiser=OptimiserConfig(
            learning_rate=config.learning_rate,
            warmup_steps=min(50, steps // 10),
            decay="cosine",
            average_rates=(),
        ),
        batch=batch,
        split=1,
        steps=steps,
        export_steps=config.steps,
        checkpoint_every=50,
        seed=config.training_seed,
    )


def student_folder(config: ComparisonConfig, name: str, stage: FlowStage) -> Path:
    """Return where a student is trained."""
    return Path(config.grid) / "students" / f"{name}-{config.training_seed}" / stage


def student_file(config: ComparisonConfig, name: str, stage: FlowStage, steps: int) -> Path:
    """Return the model file, without suffix, of the student that takes so many steps."""
    objective = ObjectiveConfig(**METHODS[name].objective)
    ending = f"_{steps}step" if objective.facts.has_two_times else ""
    return student_folder(config, name, stage) / f"student{ending}"
