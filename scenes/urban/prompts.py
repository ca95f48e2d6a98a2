"""From a prompt to the tokens a teacher listens to."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Prompts(Protocol):
    """What every teacher has in place of a text encoder, or the text encoder."""

    @property
    def null(self) -> Tensor:
        """Return the tokens (k, d) of an empty prompt."""
        ...

    def tokens(self, prompt: str) -> Tensor:
        """Return the tokens (k, d) of ``prompt``."""
        ...


class TextEncoder:
    """CLIP's text encoder, as Stable Diffusion uses it; prompts are encoded once and kept."""

    def __init__(self, tokenizer: Any, network: Any) -> None:
        self._tokenizer = tokenizer
        self._network = network
        self._known: dict[str, Tensor] = {}

    @property
    def null(self) -> Tensor:
        """Return the tokens (k, d) of an empty prompt."""
        return self.tokens("")

    @torch.no_grad()
    def tokens(self, prompt: str) -> Tensor:
        """Return the tokens (k, d) of ``prompt``, cut off at the encoder's length."""
        if prompt not in self._known:
            text = self._tokenizer(
                prompt,
                padding="max_length",
                max_length=self._tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            self._known[prompt] = self._network(text.input_ids)[0][0].float()
        return self._known[prompt]
