"""The transformer block of both flow networks, for grids and for packed sparse items.

Notation: b items, n tokens, c channels; a *modulation* (b, 6 c) holds shift, scale and gate of the
self attention, then of the perceptron.

Source: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023), adaLN-Zero, with a
cross attention between the two halves as in TRELLIS (2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenes.objects.attention import CrossAttention, LayerNorm32, SelfAttention

_EPS = 1e-6


class FeedForward(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, channels: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, channels)
        )

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Transform every token by itself."""
        return self.mlp(x)


class ModulatedBlock(nn.Module):
    """Self attention, cross attention and perceptron, steered by the time.

    Args:
        channels: width of a token.
        context_channels: width of a token of the condition.
        heads: attention heads.
        mlp_ratio: hidden channels over ``channels``.
        qk_rms_norm: normalise queries and keys of the self attention.
        qk_rms_norm_cross: the same in the cross attention.
        share_mod: the caller gives modulations instead of codes of the time.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        qk_rms_norm: bool = False,
        qk_rms_norm_cross: bool = False,
        share_mod: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(channels, eps=_EPS, elementwise_affine=False)
        self.norm2 = LayerNorm32(channels, eps=_EPS)
        self.norm3 = LayerNorm32(channels, eps=_EPS, elementwise_affine=False)
        self.self_attn = SelfAttention(channels, heads, qk_rms_norm=qk_rms_norm)
        self.cross_attn = CrossAttention(
            channels, context_channels, heads, qk_rms_norm=qk_rms_norm_cross
        )
        self.mlp = FeedForward(channels, mlp_ratio)
        self.share_mod = share_mod
        if not share_mod:
            self.adaLN_modulation = modulation_layers(channels)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        time: Float[Tensor, "b k"],
        context: Float[Tensor, "b l d"],
        angles: Float[Tensor, "n f"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Transform items of equal length; ``angles`` are rotary positions."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self._modulation(time)[:, None].chunk(
            6, dim=-1
        )
        x = x + gate_a * self.self_attn(self.norm1(x) * (1 + scale_a) + shift_a, angles)
        x = x + self.cross_attn(self.norm2(x), context)
        return x + gate_m * self.mlp(self.norm3(x) * (1 + scale_m) + shift_m)

    def forward_packed(
        self,
        x: Float[Tensor, "n c"],
        time: Float[Tensor, "b k"],
        context: Float[Tensor, "b l d"],
        lengths: Sequence[int],
        angles: Float[Tensor, "n f"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Transform packed items of the given lengths."""
        repeats = torch.tensor(lengths, device=x.device)
        per_token = self._modulation(time).repeat_interleave(repeats, dim=0, output_size=len(x))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = per_token.chunk(6, dim=-1)
        h = self.norm1(x) * (1 + scale_a) + shift_a
        x = x + gate_a * self.self_attn.forward_packed(h, lengths, angles)
        x = x + self.cross_attn.forward_packed(self.norm2(x), lengths, context)
        return x + gate_m * self.mlp(self.norm3(x) * (1 + scale_m) + shift_m)

    def _modulation(self, time: Tensor) -> Tensor:
        return time if self.share_mod else self.adaLN_modulation(time)


def modulation_layers(channels: int, parts: int = 6) -> nn.Sequential:
    """Return the layers that turn a code of the time into a modulation."""
    return nn.Sequential(nn.SiLU(), nn.Linear(channels, parts * channels))


@torch.no_grad()
def initialise_flow(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw the weights of a flow network, which starts as the identity with output zero."""
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if name.startswith("t_embedder"):
            module.weight.normal_(0, 0.02, generator=generator)
        else:
            nn.init.xavier_uniform_(module.weight, generator=generator)
        module.bias.zero_()
        if "adaLN_modulation" in name or name == "out_layer":
            module.weight.zero_()
