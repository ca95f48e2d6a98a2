"""The denoiser of functional maps: a transformer over square patches of |C| (DiT, adaLN-Zero).

The published prior "DiT-S/4" is ``DenoiserConfig()``: its patches are in truth 5 wide, so a map of
30 x 30 becomes 36 tokens.  Parameter names are those of the published network, so that its weights
load by name.

Notation: b batch, k size of the map, n tokens, c width, h heads; every block shifts, scales and
gates its two halves by vectors computed from the noise level.

Source: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023), section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from geo3d.errors import ConfigError, ShapeError

FREQUENCIES = 256
"""Sinusoids that describe the noise level."""


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of the network; the defaults are the published one (32.5 million parameters)."""

    size: int = 30
    """Rows and columns of the maps."""
    patch: int = 5
    """Rows and columns of a token's patch; divides ``size``."""
    width: int = 384
    """Channels of a token; a multiple of 4 and of ``heads``."""
    depth: int = 12
    """Transformer blocks."""
    heads: int = 6
    """Attention heads."""
    mlp_ratio: int = 4
    """Hidden channels of a block's perceptron over its width."""

    def __post_init__(self) -> None:
        for name in ("size", "patch", "width", "depth", "heads", "mlp_ratio"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1", "")
        _require(
            self.size % self.patch == 0,
            f"patches of {self.patch} do not divide a map of {self.size} x {self.size}",
            f"Choose patch among {[p for p in range(1, self.size + 1) if self.size % p == 0]}.",
        )
        _require(self.width % 4 == 0, f"width {self.width} is no multiple of 4", "")
        _require(
            self.width % self.heads == 0,
            f"{self.heads} heads do not divide the width {self.width}",
            "",
        )

    @property
    def grid(self) -> int:
        """Patches per row."""
        return self.size // self.patch


class Denoiser(nn.Module):
    """The raw network F(x, c_noise); see `geo3d.distill.preconditioning.denoise`."""

    def __init__(self, config: DenoiserConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        # Never trained, but a parameter of the published network, and counted there.
        table = sincos_table(config.width, config.grid)[None]
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        self.x_embedder = _PatchEmbedding(config.patch, config.width)
        self.t_embedder = _LevelEmbedding(config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.final_layer = _FinalLayer(config.width, config.patch**2)
        _initialise(self, generator)

    def forward(
        self, x: Float[Tensor, "b 1 k k"], c_noise: Float[Tensor, " b"]
    ) -> Float[Tensor, "b 1 k k"]:
        """Return the raw output for maps ``x`` whose noise levels are told by ``c_noise``.

        Raises:
            ShapeError: ``denoiser.wrong_size``.
        """
        if x.shape[-1] != self.config.size:
            raise ShapeError(
                "denoiser.wrong_size",
                f"The maps are {x.shape[-1]} x {x.shape[-1]}; this network takes "
                f"{self.config.size} x {self.config.size}.",
                "Crop the maps to the size of the prior.",
            )
        tokens = self.x_embedder(x) + self.pos_embed
        # Every use of the condition starts with SiLU, so it is applied once here.
        condition = F.silu(self.t_embedder(c_noise))
        for block in self.blocks:
            tokens = block(tokens, condition)
        return unpatchify(self.final_layer(tokens, condition), self.config.patch)


def unpatchify(tokens: Float[Tensor, "b n p"], patch: int) -> Float[Tensor, "b 1 k k"]:
    """Return the maps whose patches, row by row, are the tokens' entries."""
    grid = math.isqrt(tokens.shape[1])
    cells = tokens.reshape(-1, grid, grid, patch, patch)
    return cells.transpose(2, 3).reshape(-1, 1, grid * patch, grid * patch)


def sinusoids(values: Float[Tensor, " b"], count: int = FREQUENCIES) -> Float[Tensor, "b c"]:
    """Return cosines, then sines, of ``values`` at ``count / 2`` frequencies from 1 to 1e-4."""
    half = count // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def sincos_table(width: int, grid: int) -> Float[Tensor, "n c"]:
    """Return the fixed position codes of a grid, row by row.

    The first half of a code tells the column, the second the row; each half is sines, then
    cosines.
    """
    quarter = width // 4
    frequencies = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies
    code = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = code.repeat(grid, 1), code.repeat_interleave(grid, dim=0)
    return torch.cat([columns, rows], dim=1).float()


class _PatchEmbedding(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, kernel_size=patch, stride=patch)

    def forward(self, x: Float[Tensor, "b 1 k k"]) -> Float[Tensor, "b n c"]:
        patch = self.proj.kernel_size[0]
        cells = x.unfold(2, patch, patch).unfold(3, patch, patch)
        # A strided convolution is this product, which is faster on a CPU.
        return F.linear(
            cells.flatten(-2).flatten(1, 3), self.proj.weight.flatten(1), self.proj.bias
        )


class _LevelEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, c_noise: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        return self.mlp(sinusoids(c_noise))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, c))


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Block(nn.Module):
    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width = config.width
        self.attn = _Attention(width, config.heads)
        self.mlp = _Mlp(width, config.mlp_ratio * width)
        self.adaLN_modulation = _modulation(width, 6)

    def forward(
        self, x: Float[Tensor, "b n c"], condition: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b n c"]:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(condition)[
            :, None
        ].chunk(6, dim=-1)
        x = x + gate_a * self.attn(_modulate(x, shift_a, scale_a))
        return x + gate_m * self.mlp(_modulate(x, shift_m, scale_m))


class _FinalLayer(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(
        self, x: Float[Tensor, "b n c"], condition: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b n p"]:
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(_modulate(x, shift, scale))


def _modulation(width: int, parts: int) -> nn.Sequential:
    # The identity holds the place of the activation, which the caller has applied: names stay.
    return nn.Sequential(nn.Identity(), nn.Linear(width, parts * width))


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


@torch.no_grad()
def _initialise(network: Denoiser, generator: torch.Generator | None) -> None:
    for name, parameter in network.named_parameters():
        if name == "pos_embed":
            continue
        # Blocks start as the identity and the output as zero (adaLN-Zero).
        if name.endswith("bias") or "adaLN" in name or name.startswith("final_layer"):
            parameter.zero_()
        elif name.startswith("t_embedder"):
            parameter.normal_(0, 0.02, generator=generator)
        else:
            bound = math.sqrt(6 / sum(parameter.flatten(1).shape))
            parameter.uniform_(-bound, bound, generator=generator)


def _require(holds: bool, message: str, hint: str) -> None:
    if not holds:
        raise ConfigError("denoiser.bad_config", f"The network cannot be built: {message}.", hint)
