"""Curves of trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from geo3d.work import curves
from geo3d.work.curves import plot_losses, plot_training

LINES: list[dict[str, Any]] = [
    {"step": s, "time": 1.0, "loss": 1.0 / s, "loss_bin_0": 2.0, "grad_norm": 1.0, "dice": 0.0}
    for s in range(1, 9)
]


def test_the_last_line_of_a_step_counts(tmp_path: Path) -> None:
    lines = [{"step": s, "loss": 1.0 / s} for s in (1, 2, 3)]
    lines[1]["error_0.3"] = 0.5
    again = [*lines[:2], {"step": 2, "loss": 9.0}, *lines[1:]]
    first, second = (
        plot_training(tmp_path / n, x) for n, x in (("a.png", again), ("b.png", lines))
    )
    assert first.read_bytes() == second.read_bytes()


def test_what_is_measured_has_panels_by_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(curves, "_plot", lambda path, panels: seen.append(panels) or path)
    measured = {"error_0.1": 1.0, "error_1": 2.0, "betti0_error": 3, "betti1_error": 0}
    plot_training(tmp_path / "a.png", [*LINES, {"step": 9, **measured}])
    assert {kind: list(names) for kind, names in seen[0].items()} == {
        "loss": ["loss"],
        "dice": ["dice"],
        "error": ["error_0.1", "error_1"],
        "betti": ["betti0_error", "betti1_error"],
    }


def test_images_grow_with_their_panels(tmp_path: Path) -> None:
    plot_training(tmp_path / "a.png", LINES)
    plot_losses(tmp_path / "b.png", dict.fromkeys("abcd", LINES))
    sizes = []
    for name in "ab":
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes.append(image.size)
    assert sizes == [(1200, 320), (1200, 640)]


def test_a_training_without_lines_has_an_empty_image(tmp_path: Path) -> None:
    assert plot_training(tmp_path / "a.png", []).stat().st_size > 0


@pytest.mark.parametrize(
    ("values", "scale"),
    [([0.27, 0.24], "linear"), ([0.1, 1.0], "log"), ([-1.0, 20.0], "linear"), ([], "linear")],
)
def test_only_a_decade_of_positive_numbers_is_drawn_in_decades(
    values: list[float], scale: str
) -> None:
    axes = curves.new_figure(2, 2).subplots()
    axes.plot(range(len(values)), values)
    curves._finish(axes, "dice", False)
    assert axes.get_yscale() == scale
