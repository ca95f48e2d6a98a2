"""Prompts of a small teacher: a few learned tokens, called by words.

Such a teacher has no text encoder.  It learned one block of tokens per style ("night", "snow",
"brick") and one for nothing said.  A prompt is searched for the words of the styles; their blocks
follow each other in the order of the list of styles and are filled up with the block for nothing,
so that every prompt has the same number of tokens.

    styles = load_styles("teacher")          # styles.json, styles.safetensors
    tokens = styles.tokens("a snowy street at night")

On disk: ``styles.safetensors`` holds one (k, d) block per style name and one called "null";
``styles.json`` holds ``slots`` (styles in one prompt) and ``styles`` (name -> words, in order).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from geo3d import checkpoints
from geo3d.errors import CheckpointError, ConfigError
from geo3d.files import atomic_write_json

NULL = "null"
"""Name of the block for nothing said."""


@dataclass(frozen=True)
class Styles:
    """Learned tokens by style."""

    words: Mapping[str, tuple[str, ...]]
    """Words that call a style, by its name, which calls it too."""
    blocks: Mapping[str, Tensor]
    """Tokens (k, d) of each style and of `NULL`."""
    slots: int = 1
    """Styles that one prompt may name."""

    def __post_init__(self) -> None:
        lost = [name for name in (*self.words, NULL) if name not in self.blocks]
        shapes = {tuple(block.shape) for block in self.blocks.values()}
        if lost or len(shapes) != 1 or len(next(iter(shapes))) != 2 or self.slots < 1:
            raise CheckpointError(
                "styles.bad_file",
                f"The styles do not fit together: without tokens {lost}, shapes {sorted(shapes)}, "
                f"{self.slots} per prompt.",
                "Every style and 'null' has a block (k, d) of the same shape; slots is at least 1.",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the styles."""
        return tuple(self.words)

    @property
    def null(self) -> Tensor:
        """Return the tokens (slots k, d) of an empty prompt."""
        return torch.cat([self.blocks[NULL]] * self.slots)

    def named_in(self, prompt: str) -> tuple[str, ...]:
        """Return the styles that ``prompt`` names."""
        said = " " + " ".join(re.findall(r"[^\W_]+", prompt.lower())) + " "
        return tuple(
            name
            for name, words in self.words.items()
            if any(f" {word.lower()} " in said for word in (name.replace("_", " "), *words))
        )

    def tokens(self, prompt: str) -> Tensor:
        """Return the tokens (slots k, d) of ``prompt``; "" is nothing said.

        Raises:
            ConfigError: ``styles.unknown`` (words, but none of a style), ``styles.too_many``.
        """
        found = self.named_in(prompt)
        if prompt.strip() and not found:
            raise ConfigError(
                "styles.unknown",
                f"This teacher knows no style named in {prompt!r}.",
                f"Name one of: {', '.join(self.names)}; or leave the prompt empty.",
            )
        if len(found) > self.slots:
            raise ConfigError(
                "styles.too_many",
                f"The prompt {prompt!r} names {len(found)} styles: {', '.join(found)}.",
                f"This teacher takes at most {self.slots} at once.",
            )
        rest = self.slots - len(found)
        return torch.cat([self.blocks[name] for name in (*found, *[NULL] * rest)])


def save_styles(folder: str | Path, styles: Styles) -> Path:
    """Write both files into ``folder`` and return the path of ``styles.json``, written last."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    checkpoints.save(root / "styles.safetensors", styles.blocks)
    words = {name: list(words) for name, words in styles.words.items()}
    return atomic_write_json(root / "styles.json", {"slots": styles.slots, "styles": words})


def load_styles(folder: str | Path) -> Styles:
    """Read both files from ``folder``.

    Raises:
        CheckpointError: ``styles.bad_file``, and those of `geo3d.checkpoints.load`.
    """
    path = Path(folder) / "styles.json"
    blocks = checkpoints.load(Path(folder) / "styles.safetensors").tensors
    try:
        content = json.loads(path.read_text("utf-8"))
        words = {str(k): tuple(str(w) for w in v) for k, v in content["styles"].items()}
        slots = int(content["slots"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "styles.bad_file",
            f"{path} cannot be used: {error!r}.",
            'It holds {"slots": 1, "styles": {"night": ["dark"]}}.',
        ) from error
    return Styles(words, {name: block.float() for name, block in blocks.items()}, slots)
