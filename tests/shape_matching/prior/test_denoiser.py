"""The transformer denoiser: shapes, patches, conditioning, start."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from geo3d.errors import ConfigError, ShapeError
from shape_matching.prior.denoiser import (
    Denoiser,
    DenoiserConfig,
    sincos_table,
    sinusoids,
    unpatchify,
)

SMALL = DenoiserConfig(size=12, patch=4, width=16, depth=2, heads=2)


def random_denoiser(config: DenoiserConfig = SMALL) -> Denoiser:
    """Return a network whose gates and output are not zero."""
    generator = torch.Generator().manual_seed(0)
    network = Denoiser(config, generator)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1, generator=generator)
    return network


@pytest.mark.parametrize(("size", "patch"), [(30, 5), (30, 3), (32, 4), (40, 8), (6, 6)])
def test_other_sizes_and_patches(size: int, patch: int) -> None:
    network = random_denoiser(DenoiserConfig(size, patch, 16, 1, 2))
    out = network(torch.randn(2, 1, size, size), torch.zeros(2))
    assert out.shape == (2, 1, size, size)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 30, "patch": 4}, "do not divide a map"),
        ({"width": 30}, "multiple of 4"),
        ({"width": 64, "heads": 3}, "heads do not divide"),
        ({"depth": 0}, "depth"),
    ],
)
def test_impossible_networks_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        DenoiserConfig(**values)
    assert caught.value.code == "denoiser.bad_config"


def test_the_hint_lists_the_patches_that_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        DenoiserConfig(size=30, patch=4)
    assert "[1, 2, 3, 5, 6, 10, 15, 30]" in caught.value.hint


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match="12 x 12"):
        random_denoiser()(torch.zeros(1, 1, 16, 16), torch.zeros(1))


def test_patches_go_back_where_they_came_from() -> None:
    network = random_denoiser()
    x = torch.randn(3, 1, 12, 12)
    # Cut by hand: token 3 * i + j is the patch in row i, column j.
    tokens = torch.stack(
        [x[:, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4] for i in range(3) for j in range(3)], dim=1
    ).flatten(2)
    assert torch.equal(unpatchify(tokens, 4), x)
    projected = network.x_embedder.proj(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(network.x_embedder(x), projected)


def test_starts_at_zero_and_from_the_generator_only() -> None:
    first, second = (Denoiser(SMALL, torch.Generator().manual_seed(5)) for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert torch.equal(first(torch.randn(2, 1, 12, 12), torch.ones(2)), torch.zeros(2, 1, 12, 12))


def test_items_of_a_batch_do_not_mix_and_the_level_matters() -> None:
    network = random_denoiser()
    x, level = torch.randn(3, 1, 12, 12), torch.tensor([0.0, 3.0, 900.0])
    together = network(x, level)
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], level[i : i + 1])[0], together[i])
    assert not torch.allclose(network(x, level + 1), together)


def test_attention_against_its_formula() -> None:
    attention = random_denoiser().blocks[0].attn
    x = torch.randn(2, 9, 16)
    query, key, value = (part.reshape(2, 9, 2, 8) for part in attention.qkv(x).split(16, dim=2))
    scores = torch.einsum("bnhc,bmhc->bhnm", query, key) / 8**0.5
    mixed = torch.einsum("bhnm,bmhc->bnhc", scores.softmax(-1), value).reshape(2, 9, 16)
    expected = F.linear(mixed, attention.proj.weight, attention.proj.bias)
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-6)


def test_sinusoids_by_hand() -> None:
    found = sinusoids(torch.tensor([2.0]), 4)
    expected = torch.tensor([2.0, 0.02, 2.0, 0.02])
    expected = torch.cat([expected[:2].cos(), expected[2:].sin()])[None]
    torch.testing.assert_close(found, expected)


def test_position_codes_tell_column_then_row() -> None:
    table = sincos_table(8, 3)
    # Token 5 is row 1, column 2; frequencies 1 and 0.01.
    column, row = torch.tensor([2.0, 0.02]), torch.tensor([1.0, 0.01])
    expected = torch.cat([column.sin(), column.cos(), row.sin(), row.cos()])
    torch.testing.assert_close(table[5], expected)


def test_initial_spread() -> None:
    network = Denoiser(DenoiserConfig(30, 5, 96, 1, 2), torch.Generator().manual_seed(0))
    # Xavier: uniform with variance 2 / (fan_in + fan_out)
    qkv = network.blocks[0].attn.qkv
    assert qkv.weight.std().item() == pytest.approx((2 / (96 + 288)) ** 0.5, rel=0.02)
    assert network.t_embedder.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not qkv.bias.any()
