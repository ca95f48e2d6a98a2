"""Which teacher draws a street: the painter, the small shipped network, or a folder's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from geo3d.errors import ConfigError
from geo3d.files import asset
from geo3d.synth.streets.styles import STYLES
from geo3d.synth.streets.wishes import known_words
from scenes.urban.config import SceneConfig
from scenes.urban.guidance import Guidance
from scenes.urban.styles import load_styles
from scenes.urban.teachers.checks import check_teacher
from scenes.urban.teachers.painter import Painter, Teacher, is_known, require_together

TEACHER = "urban/teacher"
"""The shipped teacher, among the assets."""
PAINTER, LEARNED = "painter", "learned"
"""Names of teachers that are no folders."""


def open_teacher(config: SceneConfig, device: str = "cpu") -> Teacher:
    """Open the teacher that a configuration names.

    Raises:
        ConfigError: ``teacher.no_score`` for the painter with a method that distils.
        InputError: ``asset.missing`` without the shipped teacher.
        CheckpointError, ConfigError, BackendUnavailable: see
            `scenes.urban.teachers.folder.read_teacher`; ``teacher.no_controlnet``.
    """
    folder = teacher_folder(config)
    if folder is None:
        return Painter(config.seed)
    return Guidance.from_folder(
        folder,
        config.controlnet or None,
        config.savings,
        device,
        control_input=config.control_input,
        needs_layout=config.distil.use_layout,
    )


def teacher_folder(config: SceneConfig) -> str | Path | None:
    """Return the folder of the teacher that a configuration names; None for the painter.

    Raises:
        InputError: ``asset.missing`` without the shipped teacher.
        ConfigError: ``teacher.no_score`` for the painter with a method that distils.
    """
    fits = config.method == "sample_then_fit"
    if config.teacher == PAINTER and not fits:
        raise ConfigError(
            "teacher.no_score",
            f"The painter draws images; {config.method} needs a teacher with a score.",
            "Set teacher=learned, or method=sample_then_fit.",
        )
    is_plain = not config.teacher and not config.controlnet
    if config.teacher == PAINTER or (is_plain and fits):
        return None
    return asset(TEACHER) if config.teacher in ("", LEARNED) else config.teacher


def require_network(teacher: Teacher) -> Guidance:
    """Return a teacher that has a score.

    Raises:
        ConfigError: ``teacher.no_score`` for the painter.
    """
    if isinstance(teacher, Painter):
        raise ConfigError(
            "teacher.no_score",
            "The painter draws images; it has no score to distil or to refine with.",
            "Set method=sample_then_fit and fit.rounds=1, or teacher=learned.",
        )
    return teacher


def device_of(teacher: Teacher) -> torch.device:
    """Return where a teacher works, and the fields of a scene with it; the painter: processor."""
    return torch.device("cpu") if isinstance(teacher, Painter) else teacher.device


def check_settings(config: SceneConfig) -> None:
    """Raise when a configuration names a teacher that cannot work; reads settings only.

    Raises:
        CheckpointError, ConfigError: see `scenes.urban.teachers.checks.check_teacher`.
    """
    folder = teacher_folder(config)
    if folder is not None and (config.teacher or config.controlnet):
        check_teacher(
            folder,
            config.controlnet or None,
            config.distil.use_layout,
            config.control_input,
        )
    check_words(config, [config.prompt])


def check_words(config: SceneConfig, words: Sequence[str]) -> None:
    """Raise when a teacher that knows styles by name knows none that some words name.

    Raises:
        ConfigError: ``styles.unknown``, ``styles.too_many``, ``street_images.unknown_style``.
    """
    found = teacher_folder(config)
    if found is None:
        unknown = [text for text in words if text.strip() and not is_known(text)]
        if unknown:
            raise ConfigError(
                "styles.unknown",
                f"The painter knows no word of {unknown[0]!r}.",
                f"Name one of: {', '.join(dict.fromkeys((*STYLES, *known_words())))}.",
            )
        for text in words:
            require_together(text)
        return
    folder = Path(found)
    if (folder / "styles.json").is_file():
        styles = load_styles(folder)
        for text in words:
            styles.tokens(text)
