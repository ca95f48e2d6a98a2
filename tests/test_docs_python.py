"""The Python of every page runs: blocks of a page one after the other, as a reader would.

A page with Python has a stage here: the names and files that its text takes as given.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geo3d.topology.losses.catalogue import LOSSES

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
Names = dict[str, Any]
Stage = tuple[Names, dict[str, Names]]
"""Names from the start, and more for the block that has these words."""


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


def topology(folder: Path) -> Stage:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 24, 24, generator=generator).requires_grad_()
    heads = torch.randn(2, 3, 2, 24, 24, generator=generator).requires_grad_()
    labels = torch.zeros(2, 24, 24, dtype=torch.int64)
    labels[:, 8:12, 2:22] = 1
    mask = np.zeros((24, 48), dtype=bool)
    mask[10, 2:20] = mask[10, 24:44] = True
    given: Names = {"torch": torch, "mask": mask, "logits": logits, "labels": labels}
    given |= {"probabilities": 0.1 + 0.8 * mask.astype(np.float32)}
    batches = [(logits, labels)] * 2
    maps = torch.stack([1 - labels, labels], dim=1).float()
    outputs = [logits, logits[..., ::2, ::2], logits[..., ::4, ::4]]
    return given, {
        "for step": {"network": lambda images: 1.0 * images, "batches": batches},
        "ClDiceLoss": {"network": lambda images: images, "images": logits, "masks": maps}
        | {"epoch": 1, "epochs": 2},
        "import deep_supervision": {"network": lambda images: heads, "loss": LOSSES["cl_dice"]},
        "outputs[0]": {"outputs": outputs, "labels": labels[:, None]},
    }


def nothing(folder: Path) -> Stage:
    return {}, {}


STAGES: dict[str, Callable[[Path], Stage]] = {
    "docs/creatures.md": nothing,
    "docs/objects.md": nothing,
    "docs/objectives.md": nothing,
    "docs/prior.md": lambda folder: ({"noisy": torch.zeros(2, 30, 30)}, {}),
    "docs/segmentation.md": lambda folder: ({"pixels": np.zeros((64, 64, 3), np.uint8)}, {}),
    "docs/topology.md": topology,
}
ELSEWHERE = {"docs/from-pyfm.md": "tests/test_from_pyfm.py", "README.md": "tests/test_readme.py"}
"""Pages that another test runs."""
IMPORTED = [
    "docs/batch.md",
    "docs/evaluation.md",
    "docs/prior-data.md",
    "docs/urban.md",
    "geo3d/segmentation/README.md",
]
"""Pages whose blocks take minutes or weights from elsewhere: what they import must be there."""


def test_every_page_with_python_is_run() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*/README.md")]
    with_python = {p.relative_to(ROOT).as_posix() for p in pages if BLOCK.search(p.read_text())}
    assert with_python == {*STAGES, *ELSEWHERE, *IMPORTED}
    assert all((ROOT / test).exists() for test in ELSEWHERE.values())


@pytest.mark.slow
@pytest.mark.parametrize("page", STAGES)
def test_the_blocks_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names, before = STAGES[page](tmp_path)
    for block in blocks(page):
        for words, more in before.items():
            if words in block:
                names |= more
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", IMPORTED)
def test_what_a_page_imports_is_there(page: str) -> None:
    for block in blocks(page):
        tree = ast.parse(block)
        tree.body = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        exec(compile(tree, page, "exec"), {})


def test_a_street_is_edited_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("docs/urban.md")[0], "docs/urban.md", "exec"), {})
    assert (tmp_path / "street.json").stat().st_size > 1000
