"""Attention over grids and packed items, against softmax spelled out."""

from __future__ import annotations

import pytest
import torch

from geo3d.errors import ConfigError, ShapeError
from scenes.objects.attention import (
    CrossAttention,
    LayerNorm32,
    RmsNorm,
    SelfAttention,
    attend,
    attend_packed,
    plain_kernels,
)


def by_hand(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attend one item (n, h, d) in float64."""
    scores = torch.einsum("nhd,mhd->hnm", query.double(), key.double()) / query.shape[-1] ** 0.5
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), value.double())


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_batches_match_the_formula() -> None:
    query, key, value = (drawn(2, n, 3, 4, seed=n) for n in (5, 7, 7))
    out = attend(query, key, value)
    for i in range(2):
        torch.testing.assert_close(out[i].double(), by_hand(query[i], key[i], value[i]))


@pytest.mark.parametrize(
    "lengths",
    [(4, 4, 4), (3, 5, 0, 1), tuple(range(1, 14)), (1, 40, 0, 2, 3, 9, 9, 9, 11, 0), (6,)],
)
def test_packed_items_do_not_see_each_other(lengths: tuple[int, ...]) -> None:
    total = sum(lengths)
    query, key, value = (drawn(total, 2, 4, seed=s) for s in range(3))
    out = attend_packed(query, key, value, lengths)
    pieces = [x.split(lengths) for x in (query, key, value)]
    expected = torch.cat([by_hand(q, k, v) for q, k, v in zip(*pieces, strict=True)])
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("items", [3, 12])
def test_packed_cross_attention(items: int) -> None:
    n = [(7 * i) % 5 for i in range(items)]
    m = [1 + (3 * i) % 4 for i in range(items)]
    query, key, value = (
        drawn(sum(n), 2, 4),
        drawn(sum(m), 2, 4, seed=1),
        drawn(sum(m), 2, 4, seed=2),
    )
    out = attend_packed(query, key, value, n, m)
    parts = zip(query.split(n), key.split(m), value.split(m), strict=True)
    torch.testing.assert_close(out.double(), torch.cat([by_hand(*part) for part in parts]))


def test_queries_without_keys_get_zeros() -> None:
    out = attend_packed(drawn(3, 1, 2), drawn(2, 1, 2), drawn(2, 1, 2), [1, 2], [2, 0])
    assert out[1:].abs().max() == 0 and out[0].abs().max() > 0


def test_packed_gradients_in_float64() -> None:
    lengths = [1, 2, 3, 1, 2, 3, 1, 2, 3]
    inputs = tuple(drawn(18, 1, 2, seed=s).double().requires_grad_() for s in range(3))

    def packed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend_packed(q, k, v, lengths)

    assert torch.autograd.gradcheck(packed, inputs)


@pytest.mark.parametrize("lengths", [([1, 2], [1, 2, 1]), ([2, 2], None), ([-1, 4], [1, 3])])
def test_wrong_lengths_are_refused(lengths: tuple[list[int], list[int] | None]) -> None:
    with pytest.raises(ShapeError) as error:
        attend_packed(drawn(3, 1, 2), drawn(4, 1, 2), drawn(4, 1, 2), *lengths)
    assert error.value.code == "attention.bad_lengths"


@pytest.mark.parametrize("norm", [False, True])
def test_modules_agree_dense_and_packed(norm: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, qk_rms_norm=norm)
    x = drawn(3, 5, 8)
    packed = attention.forward_packed(x.flatten(0, 1), [5, 5, 5])
    torch.testing.assert_close(packed, attention(x).flatten(0, 1))
    cross, context = CrossAttention(8, 6, 2, qk_rms_norm=norm), drawn(3, 4, 6)
    packed = cross.forward_packed(x.flatten(0, 1), [5, 5, 5], context)
    torch.testing.assert_close(packed, cross(x, context).flatten(0, 1))


def test_the_order_of_tokens_does_not_matter() -> None:
    torch.manual_seed(0)
    attention, x, order = SelfAttention(8, 2), drawn(1, 6, 8), torch.randperm(6)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_plain_kernels_have_forward_derivatives() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, qk_rms_norm=True).double()
    x, tangent = drawn(1, 5, 8).double(), drawn(1, 5, 8, seed=1).double()
    with plain_kernels():
        derivative = torch.func.jvp(attention, (x,), (tangent,))[1]
    step = 1e-6
    numeric = (attention(x + step * tangent) - attention(x - step * tangent)) / (2 * step)
    torch.testing.assert_close(derivative, numeric, rtol=1e-5, atol=1e-7)


def test_norms_by_hand_and_in_half() -> None:
    norm = RmsNorm(2, 1)
    torch.testing.assert_close(
        norm(torch.tensor([[[3.0, 4.0]]])), torch.tensor([[[0.6, 0.8]]]) * 2**0.5
    )
    half = LayerNorm32(2, eps=0.0)(torch.tensor([[60000.0, -60000.0]], dtype=torch.float16))
    assert half.dtype == torch.float16
    torch.testing.assert_close(half, torch.tensor([[1.0, -1.0]], dtype=torch.float16))


def test_heads_must_divide() -> None:
    with pytest.raises(ConfigError) as error:
        SelfAttention(8, 3)
    assert error.value.code == "config.bad_value"
