"""What turns a prompt into a teacher's tokens: CLIP's text encoders, one or two.

Notation: k tokens of d numbers.  Teachers with two encoders (SDXL) are also told one vector of the
whole text; it travels as one more row behind the tokens, filled up with zeros, so that tokens are
one tensor for every teacher.
Source: Rombach et al. 2022; Podell et al. 2023 (SDXL): the layer before the last of both encoders,
side by side, and the projection of the second's end token.
"""

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
            ids = token_ids(self._tokenizer, prompt)
            self._known[prompt] = self._network(ids)[0][0].float()
        return self._known[prompt]


class TwoTextEncoders:
    """The two text encoders of SDXL.

    Args:
        tokenizers, networks: of both; the second network has a projection.
        is_null_zero: whether nothing said is all zeros, rather than the tokens of "".
    """

    def __init__(
        self, tokenizers: tuple[Any, Any], networks: tuple[Any, Any], is_null_zero: bool
    ) -> None:
        self._tokenizers, self._networks = tokenizers, networks
        self._is_null_zero = is_null_zero
        self._known: dict[str, Tensor] = {}

    @property
    def null(self) -> Tensor:
        """Return the tokens (k + 1, d) of an empty prompt, the text's vector last."""
        null = self.tokens("")
        return torch.zeros_like(null) if self._is_null_zero else null

    @torch.no_grad()
    def tokens(self, prompt: str) -> Tensor:
        """Return the tokens (k + 1, d) of ``prompt``, the text's vector last."""
        if prompt not in self._known:
            parts, whole = [], torch.zeros(0)
            for tokenizer, network in zip(self._tokenizers, self._networks, strict=True):
                seen = network(token_ids(tokenizer, prompt), output_hidden_states=True)
                parts.append(seen.hidden_states[-2][0].float())
                whole = seen[0][0].float()
            rows = torch.cat(parts, dim=1)
            last = torch.zeros(1, rows.shape[1])
            last[0, : len(whole)] = whole
            self._known[prompt] = torch.cat([rows, last])
        return self._known[prompt]


def token_ids(tokenizer: Any, prompt: str) -> Tensor:
    """Return the numbers (1, k) of a prompt's tokens, filled up or cut off to the usual length."""
    text = tokenizer(
        prompt,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return text.input_ids
