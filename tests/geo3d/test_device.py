"""Devices are named with reasons; noise depends on seed and item only."""

from __future__ import annotations

import pytest
import torch

from geo3d import device
from geo3d.errors import BackendUnavailable, ConfigError


def test_cpu_and_auto() -> None:
    assert device.pick_device("cpu") == torch.device("cpu")
    chosen, reason = device.explain_device("auto")
    assert chosen.type in ("cpu", "cuda") and reason.startswith("auto chose")
    if chosen.type == "cpu":
        assert device.why_not_cuda() in reason


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CPU", "", "cuda:1e3"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        device.pick_device(name)
    assert caught.value.code == "device.unknown"


@pytest.mark.parametrize("name", ["cuda:99", "mps"])
def test_absent_devices_say_why(name: str) -> None:
    if name == "mps" and device.why_not_mps() is None:
        pytest.skip("this machine has an Apple GPU")
    with pytest.raises(BackendUnavailable) as caught:
        device.pick_device(name)
    assert caught.value.code == "device.unavailable" and name in caught.value.message


def test_noise_does_not_depend_on_the_batch() -> None:
    together = device.item_noise(7, [0, 1, 2], (4, 5))
    alone = torch.cat([device.item_noise(7, [i], (4, 5)) for i in range(3)])
    backwards = device.item_noise(7, [2, 1, 0], (4, 5))
    assert torch.equal(together, alone) and torch.equal(together, backwards.flip(0))


def test_noise_is_standard_normal_and_independent_between_items_and_seeds() -> None:
    noise = device.item_noise(0, range(64), (1000,), dtype=torch.float64)
    other = device.item_noise(1, range(64), (1000,), dtype=torch.float64)
    # 64,000 draws: mean within 5 standard errors, correlations of 1,000 draws likewise.
    assert abs(noise.mean()) < 5 / 64_000**0.5 and abs(noise.std() - 1) < 0.02
    correlations = torch.corrcoef(torch.cat([noise, other])).fill_diagonal_(0.0)
    assert correlations.abs().max() < 5.5 / 1000**0.5


def test_generators_repeat_and_take_any_index() -> None:
    first = torch.randn(3, generator=device.item_generator(5, "pair a-b"))
    again = torch.randn(3, generator=device.item_generator(5, "pair a-b"))
    # (1, 23) and (12, 3) must not be one stream: seed and index are kept apart.
    near = [device.item_generator(s, i).initial_seed() for s, i in [(1, 23), (12, 3), (-1, 0)]]
    assert torch.equal(first, again) and len(set(near)) == 3
