"""The tracker of variational distillation: low-rank additions to the frozen teacher, or its copy.

It learns to denoise the scene's renderings as they are.  With additions there is one UNet: inside
`Tracker.applied` its attention layers give y = W x + up(down(x)) and the camera is added to the
time embedding; outside it is the teacher again, bit by bit.  Additions in attention layers suffice
for networks that attend everywhere.  A small UNet that attends at its coarsest level only cannot
follow colours that way (measured: docs/urban.md); its tracker is a `CopiedTracker`, whose weights
all learn.

peft would do the additions by replacing the layers of the UNet; hooks leave it and its names alone.

Notation: x_t, t, tokens as in `scenes.urban.guidance`; camera (b, 16) a flattened
camera-to-world matrix; rank r 4, scale 1; up starts at 0, so the tracker starts as the teacher.

Source: Hu et al. 2022 (LoRA); Wang et al. 2023 (ProlificDreamer); Urban Architect.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from geo3d.distill.levels import NoiseSchedule, Prediction
from scenes.urban.guidance import Control, Guidance

LAYERS = ("to_q", "to_k", "to_v", "to_out")
"""Linear layers of an attention that get an addition."""
CAMERA_NUMBERS = 16
SMALL = 50_000_000
"""Most weights of a UNet that is copied unasked."""


class LowRank(nn.Module):
    """x -> up(down(x)), in float32 whatever the network's precision."""

    def __init__(self, layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        first = torch.randn(rank, layer.in_features, generator=generator) / rank
        self.down = nn.Parameter(first)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return the addition for layer input ``x`` (..., in_features)."""
        return (x.to(self.down.dtype) @ self.down.T) @ self.up.T


class Tracker(nn.Module):
    """Additions for every attention of a UNet, and an embedding of the camera."""

    def __init__(
        self,
        unet: Any,
        generator: torch.Generator,
        rank: int = 4,
        prediction: Prediction | None = None,
    ) -> None:
        """Make a tracker that behaves as ``unet`` itself.

        Args:
            unet: diffusers' UNet2DConditionModel; not changed.
            generator: of the CPU, for the starting weights.
            rank: of the additions; 0 for none.
            prediction: what its output means; None for the same as the teacher's.
        """
        super().__init__()
        self.prediction = prediction
        self.unet: Any = None  # that of the teacher
        self.additions = nn.ModuleDict(
            {
                name.replace(".", "/"): LowRank(layer, rank, generator)
                for name, layer in attention_layers(unet).items()
                if rank
            }
        )
        width = unet.time_embedding.linear_1.out_features
        self.camera = nn.Sequential(
            _linear(CAMERA_NUMBERS, width, generator),
            nn.SiLU(),
            _linear(width, width, generator),
        )
        self.to(unet.device)

    @contextmanager
    def applied(self, unet: Any) -> Iterator[None]:
        """Turn ``unet`` into the tracker inside a ``with`` block.

        Backward passes through gradient checkpoints must end inside it too.
        """
        hooks = [
            layer.register_forward_hook(_adder(self.additions[name.replace(".", "/")]))
            for name, layer in attention_layers(unet).items()
        ]
        unet.class_embedding = self.camera
        try:
            yield
        finally:
            unet.class_embedding = None
            for hook in hooks:
                hook.remove()

    def schedule(self, guidance: Guidance) -> NoiseSchedule:
        """Return the teacher's noise levels with this tracker's kind of output."""
        own = guidance.schedule
        return replace(own, prediction=self.prediction or own.prediction)

    def output(
        self,
        guidance: Guidance,
        noisy: tuple[Tensor, Tensor],
        tokens: Tensor,
        control: Control | None,
        camera: Tensor,
    ) -> Tensor:
        """Return the tracker's raw output; call it inside `applied`.

        Args:
            noisy: x_t and t.
            tokens: of each view.
            control: what the ControlNet adds, or None.
            camera: (b, 16); zeros for no camera.
        """
        return guidance.output(*noisy, tokens, control, labels=camera, unet=self.unet)


class CopiedTracker(Tracker):
    """A copy of the whole UNet that learns in all its weights; starts as the UNet itself."""

    def __init__(
        self,
        unet: Any,
        generator: torch.Generator,
        prediction: Prediction | None = None,
    ) -> None:
        """Copy ``unet``, see `Tracker`; the camera starts without effect."""
        super().__init__(unet, generator, 0, prediction)
        self.unet = copy.deepcopy(unet).float().requires_grad_(True)
        for values in self.camera[-1].parameters():
            nn.init.zeros_(values)

    @contextmanager
    def applied(self, unet: Any) -> Iterator[None]:
        """Let the copy see the camera inside a ``with`` block; ``unet`` stays as it is."""
        self.unet.class_embedding = self.camera
        try:
            yield
        finally:
            self.unet.class_embedding = None


def new_tracker(kind: str, unet: Any, generator: torch.Generator) -> Tracker:
    """Return a tracker of the kind that `LgvsdConfig.tracker` names."""
    if kind == "auto":
        size = sum(values.numel() for values in unet.parameters())
        kind = "copy" if size <= SMALL else "low_rank"
    return CopiedTracker(unet, generator) if kind == "copy" else Tracker(unet, generator)


def attention_layers(unet: Any) -> dict[str, nn.Linear]:
    """Return the linear layers of every attention by dotted name (``...attn1.to_q``)."""
    found: dict[str, nn.Linear] = {}
    for name, module in unet.named_modules():
        if not (hasattr(module, "to_q") and hasattr(module, "to_out")):
            continue
        for layer in LAYERS:
            inner = getattr(module, layer)
            found[f"{name}.{layer}"] = inner[0] if layer == "to_out" else inner
    return found


def camera_numbers(c2w: Tensor, center: Tensor, scale: float) -> Tensor:
    """Return what a tracker is told of cameras (b, 4, 4): (b, 16) numbers of size 1 or less.

    Args:
        center: (3,) middle of the trajectory, metres.
        scale: half its length, metres.
    """
    moved = c2w.clone()
    moved[:, :3, 3] = (c2w[:, :3, 3] - center) / scale
    return moved.flatten(1).float()


def _adder(part: nn.Module) -> Any:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + part(inputs[0]).to(output.dtype)

    return hook


def _linear(n: int, m: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(n, m)
    with torch.no_grad():
        for values in (layer.weight, layer.bias):
            values.copy_((torch.rand(values.shape, generator=generator) * 2 - 1) / n**0.5)
    return layer
