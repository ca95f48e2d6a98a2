"""The network as published, and smaller."""

from __future__ import annotations

import pytest
import torch

from geo3d.errors import CheckpointError, ConfigError
from geo3d.segmentation.network import (
    NetworkConfig,
    initialise,
    load_weights,
    make_network,
    weights,
)

SMALL = NetworkConfig((4, 6, 8))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_published_network_has_the_published_size() -> None:
    with torch.device("meta"):
        network = make_network(NetworkConfig())
    assert sum(w.numel() for w in weights(network).values()) == 46_314_030
    assert NetworkConfig().stride == 128 and NetworkConfig().smallest == 256
    network.train()
    assert network(torch.empty(1, 3, 256, 256, device="meta")).shape == (1, 7, 2, 256, 256)


def test_heads_come_in_order_of_resolution() -> None:
    network = make_network(NetworkConfig((4, 6, 8, 8)), 2, seeded(0))
    image = torch.randn(1, 3, 32, 32, generator=seeded(1))
    heads = network.train()(image)
    assert heads.shape == (1, 3, 2, 32, 32)
    torch.testing.assert_close(network.eval()(image), heads[:, 0])
    for index, step in ((1, 2), (2, 4)):
        corners = heads[0, index, :, ::step, ::step]
        whole = corners.repeat_interleave(step, 1).repeat_interleave(step, 2)
        assert torch.equal(whole, heads[0, index])


def test_weights_follow_from_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (make_network(SMALL, 2, seeded(s)) for s in (0, 0, 1))
    pairs = [weights(network) for network in (one, same, other)]
    assert all(torch.equal(pairs[0][n], pairs[1][n]) for n in pairs[0])
    assert any(not torch.equal(pairs[0][n], pairs[2][n]) for n in pairs[0])
    initialise(one, seeded(5))
    initialise(same, seeded(5))
    assert all(torch.equal(pairs[0][n], pairs[1][n]) for n in pairs[0])
    make_network(SMALL, 2, seeded(3))
    torch.random.set_rng_state(before)
    initialise(one, seeded(9))
    assert torch.equal(before, torch.random.get_rng_state())


def test_first_weights_are_kaiming_and_later_ones_as_published_are_not() -> None:
    network = make_network(NetworkConfig((16, 32, 64)), 2, seeded(0))
    name, first = next((n, w) for n, w in weights(network).items() if w.shape == (64, 64, 3, 3))
    assert first.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    initialise(network, seeded(0), compat=True)
    again = weights(network)[name]
    assert again.std().item() == pytest.approx((1 / (3 * 64 * 9)) ** 0.5, rel=0.03)


def test_weights_go_and_come_back() -> None:
    one, other = make_network(SMALL, 2, seeded(0)), make_network(SMALL, 2, seeded(1))
    load_weights(other, weights(one))
    image = torch.randn(1, 3, 16, 16, generator=seeded(2))
    assert torch.equal(one.eval()(image), other.eval()(image))
    with pytest.raises(CheckpointError, match=r"checkpoint\.wrong_weights"):
        load_weights(make_network(SMALL, 1), weights(one))


def test_errors() -> None:
    for filters in ((8, 8), (8, 0, 8)):
        with pytest.raises(ConfigError, match="filters"):
            NetworkConfig(filters)
