"""Devices and randomness.

Noise is drawn on the CPU, per item: item i of a batch has a generator seeded by a hash of
(base seed, i).  A result therefore depends neither on the device nor on the batch size, and nearby
seeds or items share no stream.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.errors import BackendUnavailable, ConfigError

_log = logging.getLogger(__name__)


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ConfigError: ``device.unknown``.
        BackendUnavailable: ``device.unavailable``.
    """
    device, reason = explain_device(name)
    _log.info("device %s: %s", device, reason)
    return device


def explain_device(name: str = "auto") -> tuple[torch.device, str]:
    """Return the device for ``name`` and one sentence on why; see `pick_device`."""
    if name == "auto":
        reason = why_not_cuda(0)
        if reason is None:
            return torch.device("cuda:0"), f"auto chose {torch.cuda.get_device_name(0)}"
        return torch.device("cpu"), f"auto chose the CPU: {reason}"
    if name == "cpu":
        return torch.device("cpu"), "asked for"
    if match := re.fullmatch(r"cuda(?::(\d{1,3}))?", name):
        index = int(match[1] or 0)
        _require(name, why_not_cuda(index))
        return torch.device("cuda", index), "asked for"
    if name == "mps":
        _require(name, why_not_mps())
        return torch.device("mps"), "asked for"
    raise ConfigError(
        "device.unknown", f"There is no device {name!r}.", "Use auto, cpu, cuda, cuda:N or mps."
    )


def item_generator(seed: int, index: int | str) -> torch.Generator:
    """Return a CPU generator of its own for item ``index`` under base seed ``seed``."""
    digest = hashlib.sha256(f"geo3d:{seed}:{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def item_noise(
    seed: int,
    items: Sequence[int],
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n ..."]:
    """Return standard normal noise, one independent draw of ``shape`` per item, stacked."""
    draws = [torch.randn(tuple(shape), generator=item_generator(seed, i)) for i in items]
    return torch.stack(draws).to(device=device, dtype=dtype)


def _require(name: str, reason: str | None) -> None:
    if reason is not None:
        raise BackendUnavailable(
            "device.unavailable",
            f"The device {name!r} cannot be used: {reason}.",
            "Use --device auto or cpu; `geo3d doctor` tells more.",
        )


def why_not_cuda(index: int = 0) -> str | None:
    """Return None if CUDA device ``index`` works, else the reason it does not."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is a CPU build"
    if not torch.cuda.is_available():
        return "no CUDA driver or device is found"
    if index >= torch.cuda.device_count():
        return f"there are {torch.cuda.device_count()} CUDA devices, counted from 0"
    try:
        # A device can be listed and still be unusable (too old for this build, out of memory).
        torch.zeros(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        return f"it fails at the first operation ({str(error).splitlines()[0]})"
    return None


def why_not_mps() -> str | None:
    """Return None if an Apple GPU can be used, else the reason it cannot."""
    # "auto" never picks MPS: it has no float64, which the spectral parts need.
    return None if torch.backends.mps.is_available() else "no Apple GPU is found"
