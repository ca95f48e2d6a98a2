"""Distillation methods side by side: students of one teacher, trained at equal cost, one table.

    grid/settings.json                           what the grid was last given, and its networks
    grid/students/METHOD-SEED/STAGE/             checkpoint, student, metrics.jsonl
    grid/samples/MAKER-STEPS/SEED-CHUNK.npz      as `comparison_samples.write_measured`
    grid/samples.csv, grid/table.md              every sample, and the table

Everything is done in small parts that are kept, so the same call goes on after an interruption, and
more methods, objects or seeds may be asked for later.  Students are trained first; then all makers
take turns on the same few objects, so that whatever is there compares like with like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from apps.bench.objects_methods import (
    METHODS,
    STAGES,
    ComparisonConfig,
    student_config,
    student_file,
    student_folder,
)
from apps.bench.objects_samples import (
    NUMBERS,
    Maker,
    Measured,
    Stages,
    compared,
    make_meshes,
    measured,
    read_measured,
    true_meshes,
    write_measured,
)
from apps.bench.objects_table import (
    AUTOENCODER,
    FEW,
    TEACHER,
    TRUTH,
    Sample,
    markdown,
    table,
)
from apps.running import metrics_log
from geo3d.config import config_to_dict, load_config
from geo3d.errors import CheckpointError, InputError
from geo3d.files import atomic_write_text
from geo3d.progress import ProgressCallback, ignore_progress
from geo3d.work.pool import Handler, Limits, Task
from geo3d.work.runner import Work, claim, run_items
from geo3d.work.tables import csv_text
from scenes.objects.samplers import SamplerConfig
from scenes.objects.small.cells import CellObject, read_cells
from scenes.objects.small.train import TEACHER_SAMPLER
from scenes.objects.train_config import DistillConfig
from scenes.objects.training import train

FLOWS = {"structure": "sparse_structure_flow_model", "latent": "slat_flow_model"}
"""Key of the network of each stage."""
_TITLES = {
    TRUTH: "truth, other points on it",
    AUTOENCODER: "autoencoder (best possible)",
    TEACHER: "teacher",
    FEW: "teacher, untrained for few steps",
}
_FREE = ("work", "cells", "grid", "methods", "objects", "seeds", "steps", "least_piece")
"""Settings that may change while a grid grows."""
_NOISE = 1_000_003
KEPT_POINTS = 2048
"""Of each sample, for the diversity."""
Row = dict[str, Any]


class Part(NamedTuple):
    """A file of samples."""

    maker: Maker
    seed: int
    chunk: int
    objects: tuple[int, ...]


def compare_methods(
    config: ComparisonConfig, progress: ProgressCallback = ignore_progress
) -> list[Row]:
    """Train and sample what is missing, write samples and table, and return the table's rows.

    Raises:
        InputError: ``comparison.too_few`` (fewer held-out objects than asked for), ``cells.none``,
            ``work.other_folder``.
        CheckpointError: ``comparison.bad_file``, and those of reading the networks.
        ConfigError: errors of reading the recipes.
    """
    grid = Grid(config)
    grid.claim()
    grid.train(progress)
    parts = {str(grid.path(part).relative_to(grid.folder)): part for part in grid.parts()}
    work = Work(
        grid.folder,
        [Task(name, part) for name, part in parts.items()],
        partial(_sampler, config),
        lambda name: grid.kept(parts[name]) is not None,
        "sampling",
        retry_all=True,
    )
    # one at a time: their seconds are compared
    for failure in run_items(work, Limits(), progress).values():
        raise CheckpointError(failure["code"], failure["message"], failure["hint"])
    return write_table(config)


def write_table(config: ComparisonConfig) -> list[Row]:
    """Write ``samples.csv`` and ``table.md`` from what all makers have made; return the rows.

    Raises:
        InputError: ``comparison.nothing`` (no objects that all makers have made).
        CheckpointError: ``comparison.bad_file``.
    """
    grid = Grid(config)
    samples = grid.samples()
    if not samples:
        raise InputError(
            "comparison.nothing",
            f"There is nothing to compare in {config.grid} yet.",
            "Let the comparison run on.",
        )
    rows = table(samples, config.least_piece)
    columns = ["maker", "steps", "seed", "object", *samples[0].numbers]
    lines = [
        {**vars(sample), **{name: f"{value:.6g}" for name, value in sample.numbers.items()}}
        for sample in samples
    ]
    atomic_write_text(grid.folder / "samples.csv", csv_text(columns, lines))
    atomic_write_text(grid.folder / "table.md", markdown(rows))
    return rows


def _sampler(config: ComparisonConfig) -> Handler:
    grid = Grid(config)

    def sample(part: Part) -> None:
        grid.made(part)

    return sample


def _truth(part: Part) -> Part:
    return part._replace(maker=Maker(TRUTH, 0, {}, ()), seed=0)


class Grid:
    """The parts of a comparison and where they are kept."""

    def __init__(self, config: ComparisonConfig) -> None:
        self.config = config
        self.folder = Path(config.grid)

    @cached_property
    def objects(self) -> list[CellObject]:
        """The held-out objects."""
        return read_cells(self.config.cells)[: self.config.objects]

    @cached_property
    def stages(self) -> Stages:
        """The networks of the pipeline."""
        path = Path(self.config.work) / "latents" / "latent-student.yaml"
        data = load_config(DistillConfig, path).data
        return Stages(self.config.work, (data.mean, data.std))

    def claim(self) -> None:
        """Take the folder for these settings, before anything is trained.

        Raises:
            CheckpointError: those of reading the networks.
            InputError: ``work.other_folder``, ``comparison.too_few``, ``cells.none``.
        """
        networks = self.stages.digests()
        if len(self.objects) < self.config.objects:
            raise InputError(
                "comparison.too_few",
                f"{self.config.cells} has {len(self.objects)} objects, not {self.config.objects}.",
                "Make more with `geo3d data objects`, or lower objects.",
            )
        claim(self.folder, {**config_to_dict(self.config), "teacher": networks}, _FREE)

    def train(self, progress: ProgressCallback) -> None:
        """Train the students that are not yet there."""
        for name in self.config.methods:
            for stage in STAGES:
                last = student_file(self.config, name, stage, self.config.steps[-1])
                if not Path(f"{last}.json").is_file():
                    out = student_folder(self.config, name, stage)
                    out.mkdir(parents=True, exist_ok=True)
                    config = student_config(self.config, name, stage)
                    log = metrics_log(out)
                    train(config, out, device="cpu", log_metrics=log, progress=progress)

    def makers(self) -> list[Maker]:
        """Return the teacher, the teacher in few steps, and the students."""
        makers = [Maker(TEACHER, TEACHER_SAMPLER.steps, {}, (TEACHER_SAMPLER, TEACHER_SAMPLER))]
        for n in self.config.steps:
            few = replace(TEACHER_SAMPLER, steps=n, rescale_t=1.0)
            makers.append(Maker(FEW, n, {}, (few, few)))
        for name in self.config.methods:
            for n in self.config.steps:
                files = {FLOWS[s]: student_file(self.config, name, s, n) for s in STAGES}
                kind = METHODS[name].sampling
                sampler = SamplerConfig(steps=n, rescale_t=1.0, guidance_scale=None, student=kind)
                makers.append(Maker(name, n, files, (sampler, sampler)))
        return makers

    def parts(self) -> Iterator[Part]:
        """Yield all files of samples: a few objects by every maker, then the next few."""
        size, count, makers = self.config.chunk, self.config.objects, self.makers()
        for chunk, start in enumerate(range(0, count, size)):
            objects = tuple(range(start, min(start + size, count)))
            for name in (TRUTH, AUTOENCODER):
                yield Part(Maker(name, 0, {}, ()), 0, chunk, objects)
            for seed in range(self.config.seeds):
                yield from (Part(maker, seed, chunk, objects) for maker in makers)

    def path(self, part: Part) -> Path:
        """Return the file of a part."""
        folder = f"{part.maker.name}-{part.maker.steps}"
        return self.folder / "samples" / folder / f"{part.seed}-{part.chunk:03d}.npz"

    def kept(self, part: Part) -> Measured | None:
        """Return the samples of a part; None where they are not there.

        Raises:
            CheckpointError: ``comparison.bad_file``.
        """
        path = self.path(part)
        found = read_measured(path) if path.is_file() else None
        # the last file of a smaller comparison holds fewer objects
        return None if found is None or len(found.seconds) < len(part.objects) else found

    def made(self, part: Part) -> Measured:
        """Return the samples of a part, made if they are not there.

        Raises:
            CheckpointError: ``comparison.bad_file``, and those of reading the networks.
        """
        if (kept := self.kept(part)) is not None:
            return kept
        objects, seconds = [self.objects[i] for i in part.objects], 0.0
        threshold = self.config.threshold
        if part.maker.name == TRUTH:
            meshes = true_meshes(objects)
        elif part.maker.name == AUTOENCODER:
            meshes = self.stages.decoded(objects)
        else:
            noise = [_NOISE * part.seed + i for i in part.objects]
            meshes, seconds = make_meshes(self.stages, part.maker, objects, noise)
        encoder, count = self.stages.encoder, self.config.points
        found = measured(meshes, encoder, count, seconds)
        if part.maker.name == TRUTH:
            # what other points on the same surfaces score is the most there is to reach
            again = compared(measured(meshes, encoder, count, choice=1), found, threshold)
            found = replace(found, numbers=again.numbers)
        else:
            # the truth keeps all points, samples no more than their diversity needs
            found = compared(found, self.made(_truth(part)), threshold)
            found = replace(found, points=found.points[:, :KEPT_POINTS])
        write_measured(self.path(part), found)
        return found

    def samples(self) -> list[Sample]:
        """Return what all makers have made of the same objects and seeds, maker by maker."""
        parts = list(self.parts())
        broken = {(p.chunk, p.seed) for p in parts if not self.path(p).is_file()}
        # without the truth of some objects nothing can be said of them
        whole = [p for p in parts if not {(p.chunk, p.seed), (p.chunk, 0)} & broken]
        found: dict[tuple[str, int], list[Sample]] = {}
        for part in whole:
            key = (part.maker.name, part.maker.steps)
            found.setdefault(key, []).extend(self._samples(part))
        return [sample for group in found.values() for sample in group]

    def _samples(self, part: Part) -> Sequence[Sample]:
        made = self.made(part)
        name = part.maker.name
        title = METHODS[name].title if name in METHODS else _TITLES[name]
        return [
            Sample(
                name,
                title,
                part.maker.steps,
                part.maker.evaluations,
                part.seed,
                self.objects[i].name,
                dict(zip(NUMBERS, made.numbers[k].tolist(), strict=True)),
                made.points[k, :KEPT_POINTS],
                made.features[k],
            )
            for k, i in enumerate(part.objects)
        ]
