"""What to give up for memory where a teacher is large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from geo3d.errors import ConfigError

Precision = Literal["float32", "float16", "bfloat16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Savings:
    """What to give up for memory."""

    precision: Precision = "float32"
    """Of the frozen UNet and ControlNet; losses, tracker and autoencoder stay in float32."""
    slice_attention: bool = False
    """Compute attention in parts: slower, less memory at 512 pixels and above."""
    slice_autoencoder: bool = False
    """Let the autoencoder see one image at a time."""
    checkpoint_tracker: bool = False
    """Recompute the UNet in the tracker's backward pass instead of keeping activations."""
    chunk: int = 0
    """Views the networks see at once; 0 for all."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the frozen networks' numbers.

        Raises:
            ConfigError: ``guidance.unknown_precision``.
        """
        if self.precision not in _DTYPES:
            raise ConfigError(
                "guidance.unknown_precision",
                f"There is no precision '{self.precision}'.",
                f"Known are {', '.join(_DTYPES)}.",
            )
        return _DTYPES[self.precision]


NO_SAVINGS = Savings()
