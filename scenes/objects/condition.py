"""Images to the tokens that condition both flows.

An *encoder* has ``channels`` and ``encode(images) -> (b, l, channels)``.  `DinoEncoder` is what
published pipelines use (weights from a local folder, through transformers); `SmallImageEncoder` is
a small network of ours for pipelines trained from scratch.

Notation: b images, l tokens, c channels, s pixels per side.

Source: Oquab et al., "DINOv2" (2023); Darcet et al., "Vision Transformers Need Registers" (2023);
Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from geo3d import backends
from geo3d.config import require
from geo3d.errors import CheckpointError
from scenes.objects.attention import FeedForward, LayerNorm32, SelfAttention
from scenes.objects.embeddings import position_sinusoids
from scenes.objects.image import SIZE

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
UNSAFE_SUFFIXES = (".py", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
"""Programs, and weights other than safetensors."""


class ImageEncoder(Protocol):
    """What the pipeline asks of an encoder."""

    channels: int
    """Channels of a token."""

    def encode(self, images: Sequence[Image.Image]) -> Float[Tensor, "b l c"]:
        """Return the tokens of each prepared image (see `scenes.objects.image`)."""
        ...


class DinoEncoder:
    """DINOv2 from a local folder: the tokens before its last norm, normalised.

    Args:
        folder: ``config.json`` and ``model.safetensors`` as transformers writes them; nothing is
            ever downloaded.  With registers, as TRELLIS wants it, or without.
        device: where it runs.
        dtype: type of its weights; the tokens are float32.

    Raises:
        BackendUnavailable: ``backend.unavailable`` (transformers is not installed).
        CheckpointError: ``condition.no_encoder`` (the folder holds no such model),
            ``condition.unsafe_files`` (it holds program text, or weights that can run programs).
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if unsafe := unsafe_files(folder):
            raise CheckpointError(
                "condition.unsafe_files",
                f"The folder of the image encoder, {folder}, holds {', '.join(unsafe)}.",
                "Keep config.json and model.safetensors there; nothing else is needed.",
            )
        if missing := missing_encoder_files(folder):
            raise CheckpointError(
                "condition.no_encoder",
                f"There is no image encoder in {folder}: {', '.join(missing)} missing.",
                "Put the folder of facebook/dinov2-with-registers-large there.",
            )
        library = backends.require("transformers")
        kind = _model_type(Path(folder) / "config.json")
        model_class = library.Dinov2Model if kind == "dinov2" else library.Dinov2WithRegistersModel
        try:
            model, found = model_class.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            # The library would fill what is missing with random numbers and only warn.
            if missing := sorted(found["missing_keys"]):
                raise ValueError(f"it lacks the weights {', '.join(missing[:5])}")
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                "condition.no_encoder",
                f"The image encoder in {folder} cannot be read: {error}.",
                "Copy the folder again.",
            ) from error
        self.model = cast(nn.Module, model).to(device, dtype).eval().requires_grad_(False)
        self.channels = int(model.config.hidden_size)
        self._before_norm: Tensor | None = None
        # The output of the last block, by whatever name a version of the library returns it.
        self.model.get_submodule("layernorm").register_forward_pre_hook(self._keep)

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Float[Tensor, "b l c"]:
        """Return class token, registers and patches, each normalised without weights."""
        weight = next(self.model.parameters())
        mean, std = (torch.tensor(v)[:, None, None] for v in (_MEAN, _STD))
        pixels = (to_pixels(images, SIZE) - mean) / std
        self.model(pixels.to(weight))
        tokens = cast(Tensor, self._before_norm).float()
        self._before_norm = None
        return F.layer_norm(tokens, tokens.shape[-1:])

    def _keep(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._before_norm = inputs[0]


@dataclass(frozen=True)
class SmallEncoderConfig:
    """Shape of the small encoder."""

    size: int = 64
    """Pixels per side the images are reduced to."""
    patch: int = 8
    """Pixels per side of a token; divides ``size``."""
    channels: int = 192
    """Width of a token."""
    depth: int = 4
    """Transformer blocks."""
    heads: int = 6
    """Attention heads."""

    def __post_init__(self) -> None:
        divides = self.patch >= 1 and self.size % self.patch == 0
        require(divides, "patch", f"a divisor of the size {self.size}")

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return (self.size // self.patch) ** 2


class SmallImageEncoder(nn.Module):
    """A small vision transformer over patches."""

    def __init__(self, config: SmallEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.channels
        edge = config.size // config.patch
        rows = torch.arange(edge)
        grid = torch.stack(torch.meshgrid(rows, rows, indexing="ij"), dim=-1).reshape(-1, 2)
        places = F.pad(grid, (0, 1))
        self.register_buffer("pos_emb", position_sinusoids(places, config.channels))
        self.patches = nn.Linear(3 * config.patch**2, config.channels)
        self.blocks = nn.ModuleList(_EncoderBlock(config) for _ in range(config.depth))

    def forward(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b l c"]:
        """Return the tokens of images with values in [0, 1], row by row."""
        p = self.config.patch
        mean, std = (pixels.new_tensor(v)[:, None, None] for v in (_MEAN, _STD))
        cells = ((pixels - mean) / std).unfold(2, p, p).unfold(3, p, p)
        h = self.patches(cells.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
        h = h + self.get_buffer("pos_emb")
        for block in self.blocks:
            h = block(h)
        return F.layer_norm(h, h.shape[-1:])

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> Float[Tensor, "b l c"]:
        """Return the tokens of images."""
        pixels = to_pixels(images, self.config.size).to(self.patches.weight)
        return self(pixels).float()


def to_pixels(images: Sequence[Image.Image], size: int) -> Float[Tensor, "b 3 s s"]:
    """Return RGB images as values in [0, 1], resized where their size differs."""
    arrays = []
    for image in images:
        rgb = image.convert("RGB")
        if rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.LANCZOS)
        arrays.append(np.asarray(rgb, dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(arrays)).movedim(-1, 1).contiguous()


def _model_type(path: Path) -> str:
    """Return which model a settings file of transformers describes; "" if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get("model_type", "")) if isinstance(content, dict) else ""


def missing_encoder_files(folder: str | Path) -> list[str]:
    """Return which files of a transformers model folder are not there."""
    return [n for n in ("config.json", "model.safetensors") if not (Path(folder) / n).is_file()]


def unsafe_files(folder: str | Path) -> list[str]:
    """Return which files of a folder are programs, or weights in formats that can hold some."""
    found = Path(folder).rglob("*") if Path(folder).is_dir() else ()
    return sorted(
        str(path.relative_to(folder)) for path in found if path.suffix.lower() in UNSAFE_SUFFIXES
    )


class _EncoderBlock(nn.Module):
    def __init__(self, config: SmallEncoderConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(config.channels)
        self.norm2 = LayerNorm32(config.channels)
        self.attn = SelfAttention(config.channels, config.heads)
        self.mlp = FeedForward(config.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
