"""Attention of the flow transformers and decoders, on any device, by torch's fused kernels.

One module serves grids of tokens and sparse sets alike: a batch of equal length is a tensor
(b, n, c); items of unequal length are *packed* end to end in one (n, c) with a list of lengths.
Parameter names are those of the published networks, so that their weights load by name.

Notation: b batch, n query tokens, m key tokens, h heads, d channels of a head, c channels.

Source: Vaswani et al., "Attention Is All You Need" (2017); query and key norm as in Xiang et al.,
"Structured 3D Latents" (TRELLIS, 2024).

The transformer block of both flow networks, for grids and for packed sparse items.

Notation: b items, n tokens, c channels; a *modulation* (b, 6 c) holds shift, scale and gate of the
self attention, then of the perceptron.

Source: Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023), adaLN-Zero, with a
cross attention between the two halves as in TRELLIS (2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from geo3d.config import require
from geo3d.errors import ShapeError
from scenes.objects.embeddings import rotate

_FEW_ITEMS = 8
"""Up to this many packed items are attended one by one, without a mask."""
_MAX_PADDING = 1.25
"""A bucket of packed items holds lengths up to this factor apart."""


def plain_kernels() -> AbstractContextManager[object]:
    """Return a context in which attention is spelled out in elementary operations.

    The fused kernels have no forward-mode derivative (``torch.func.jvp``) and no second one.
    """
    return sdpa_kernel(SDPBackend.MATH)


def attend(
    query: Float[Tensor, "b n h d"], key: Float[Tensor, "b m h d"], value: Float[Tensor, "b m h d"]
) -> Float[Tensor, "b n h d"]:
    """Return softmax(q k^T / sqrt(d)) v per head."""
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return mixed.transpose(1, 2)


def attend_packed(
    query: Float[Tensor, "n h d"],
    key: Float[Tensor, "m h d"],
    value: Float[Tensor, "m h d"],
    query_lengths: Sequence[int],
    key_lengths: Sequence[int] | None = None,
) -> Float[Tensor, "n h d"]:
    """Attend within each item of a packed batch; lengths may be 0.

    ``key_lengths`` None means those of the queries.  An item with queries and no keys gets zeros.

    Raises:
        ShapeError: ``attention.bad_lengths`` (lengths do not add up to the tokens).
    """
    own = key_lengths is None
    key_lengths = query_lengths if key_lengths is None else key_lengths
    _check_lengths(query, query_lengths, "queries")
    _check_lengths(key, key_lengths, "keys")
    if len(query_lengths) != len(key_lengths):
        _refuse(f"{len(query_lengths)} items of queries, {len(key_lengths)} of keys")
    if own and len(set(query_lengths)) == 1 and query_lengths[0]:
        return _attend_equal(query, key, value, len(query_lengths))
    if len(query_lengths) <= _FEW_ITEMS:
        return _attend_singly(query, key, value, query_lengths, key_lengths)
    return _attend_buckets(query, key, value, query_lengths, key_lengths)


class LayerNorm32(nn.LayerNorm):
    """A layer norm computed in float32 (or wider) that returns the type of its input."""

    def forward(self, input: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Normalise the last axis."""
        wide = at_least_float32(input)
        weight = None if self.weight is None else self.weight.to(wide.dtype)
        bias = None if self.bias is None else self.bias.to(wide.dtype)
        out = F.layer_norm(wide, self.normalized_shape, weight, bias, self.eps)
        return out.to(input.dtype)


class RmsNorm(nn.Module):
    """Scale every head's vector to the length sqrt(d), then by a learnt ``gamma``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(heads, dim))

    def forward(self, x: Float[Tensor, "*n h d"]) -> Float[Tensor, "*n h d"]:
        """Normalise in float32 (or wider) and return the type of ``x``."""
        wide = at_least_float32(x)
        unit = F.normalize(wide, dim=-1)
        return (unit * self.gamma.to(wide.dtype) * self.scale).to(x.dtype)


def at_least_float32(x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Widen halves to float32 and leave wider types alone."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class SelfAttention(nn.Module):
    """Tokens of an item attend to each other."""

    def __init__(self, channels: int, heads: int, *, qk_rms_norm: bool = False) -> None:
        super().__init__()
        _check_heads(channels, heads)
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * channels)
        if qk_rms_norm:
            self.q_rms_norm = RmsNorm(channels // heads, heads)
            self.k_rms_norm = RmsNorm(channels // heads, heads)
        self.qk_rms_norm = qk_rms_norm
        self.to_out = nn.Linear(channels, channels)

    def forward(
        self, x: Float[Tensor, "b n c"], angles: Float[Tensor, "n f"] | None = None
    ) -> Float[Tensor, "b n c"]:
        """Attend within items of equal length; ``angles`` are rotary positions."""
        query, key, value = self._project(x, angles)
        return self.to_out(attend(query, key, value).flatten(-2))

    def forward_packed(
        self,
        x: Float[Tensor, "n c"],
        lengths: Sequence[int],
        angles: Float[Tensor, "n f"] | None = None,
    ) -> Float[Tensor, "n c"]:
        """Attend within packed items, or within windows packed alike."""
        query, key, value = self._project(x, angles)
        return self.to_out(attend_packed(query, key, value, lengths).flatten(-2))

    def _project(self, x: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.unbind(dim=-3)
        if self.qk_rms_norm:
            query, key = self.q_rms_norm(query), self.k_rms_norm(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        return query, key, value


class CrossAttention(nn.Module):
    """Tokens of an item attend to the tokens of its condition."""

    def __init__(
        self, channels: int, context_channels: int, heads: int, *, qk_rms_norm: bool = False
    ) -> None:
        super().__init__()
        _check_heads(channels, heads)
        self.heads = heads
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(context_channels, 2 * channels)
        if qk_rms_norm:
            self.q_rms_norm = RmsNorm(channels // heads, heads)
            self.k_rms_norm = RmsNorm(channels // heads, heads)
        self.qk_rms_norm = qk_rms_norm
        self.to_out = nn.Linear(channels, channels)

    def forward(
        self, x: Float[Tensor, "b n c"], context: Float[Tensor, "b m k"]
    ) -> Float[Tensor, "b n c"]:
        """Attend from items of equal length."""
        query, key, value = self._project(x, context)
        return self.to_out(attend(query, key, value).flatten(-2))

    def forward_packed(
        self, x: Float[Tensor, "n c"], lengths: Sequence[int], context: Float[Tensor, "b m k"]
    ) -> Float[Tensor, "n c"]:
        """Attend from packed items; ``context`` has one row of tokens per item."""
        query, key, value = self._project(x, context)
        context_lengths = [context.shape[1]] * context.shape[0]
        mixed = attend_packed(
            query, key.flatten(0, 1), value.flatten(0, 1), lengths, context_lengths
        )
        return self.to_out(mixed.flatten(-2))

    def _project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query = self.to_q(x).unflatten(-1, (self.heads, -1))
        key, value = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).unbind(dim=-3)
        if self.qk_rms_norm:
            query, key = self.q_rms_norm(query), self.k_rms_norm(key)
        return query, key, value


def _attend_equal(query: Tensor, key: Tensor, value: Tensor, items: int) -> Tensor:
    batched = (x.unflatten(0, (items, -1)) for x in (query, key, value))
    return attend(*batched).flatten(0, 1)


def _attend_singly(
    query: Tensor, key: Tensor, value: Tensor, n: Sequence[int], m: Sequence[int]
) -> Tensor:
    pieces = zip(query.split(list(n)), key.split(list(m)), value.split(list(m)), strict=True)
    return torch.cat(
        [
            attend(q[None], k[None], v[None])[0] if len(q) and len(k) else torch.zeros_like(q)
            for q, k, v in pieces
        ]
    )


def _attend_buckets(
    query: Tensor, key: Tensor, value: Tensor, n: Sequence[int], m: Sequence[int]
) -> Tensor:
    """Pad items of similar lengths to a batch and mask the padding."""
    starts_n, starts_m = _starts(n), _starts(m)
    out = torch.zeros_like(query)
    for items in _buckets(n, m):
        rows, real = _index([starts_n[i] for i in items], [n[i] for i in items], query.device)
        columns, valid = _index([starts_m[i] for i in items], [m[i] for i in items], key.device)
        mixed = F.scaled_dot_product_attention(
            query[rows].transpose(1, 2),
            key[columns].transpose(1, 2),
            value[columns].transpose(1, 2),
            attn_mask=valid[:, None, None, :],
        ).transpose(1, 2)
        out = out.index_copy(0, rows[real], mixed[real])
    return out


def _buckets(n: Sequence[int], m: Sequence[int]) -> Iterator[list[int]]:
    order = sorted((i for i in range(len(n)) if n[i] and m[i]), key=lambda i: (n[i], m[i]))
    bucket: list[int] = []
    for i in order:
        first = bucket[0] if bucket else i
        alike = n[i] <= _MAX_PADDING * n[first] + 4
        near = max(m[i], m[first]) <= _MAX_PADDING * min(m[i], m[first]) + 4
        if bucket and not (alike and near):
            yield bucket
            bucket = []
        bucket.append(i)
    if bucket:
        yield bucket


def _index(starts: list[int], lengths: list[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row of every token of a padded batch (padding repeats the last) and the mask."""
    begin = torch.tensor(starts, device=device)[:, None]
    length = torch.tensor(lengths, device=device)[:, None]
    offset = torch.arange(max(lengths), device=device)
    return begin + torch.minimum(offset, length - 1), offset < length


def _starts(lengths: Sequence[int]) -> list[int]:
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts


def _check_lengths(tokens: Tensor, lengths: Sequence[int], what: str) -> None:
    if sum(lengths) != len(tokens) or any(length < 0 for length in lengths):
        _refuse(f"the lengths of the {what} sum to {sum(lengths)}, there are {len(tokens)}")


def _check_heads(channels: int, heads: int) -> None:
    divides = heads >= 1 and channels % heads == 0
    require(divides, "the number of heads", f"a divisor of the {channels} channels")


def _refuse(reason: str) -> None:
    raise ShapeError(
        "attention.bad_lengths",
        f"The packed items do not fit: {reason}.",
        "Give one length per item; they sum to the number of tokens.",
    )


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


def modulation_layers(channels: int) -> nn.Sequential:
    """Return the layers that turn a code of the time into the six parts of a modulation."""
    return nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))


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
