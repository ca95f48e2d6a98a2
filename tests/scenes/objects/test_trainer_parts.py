"""Clipping, masters, averages and the sharing of items."""

from __future__ import annotations

import math

import pytest
import torch

from scenes.objects.trainer_parts import AdaptiveClipper, Average, Masters, parts_of_equal_load


def test_the_limit_follows_the_norms() -> None:
    clipper = AdaptiveClipper(None, 50.0, 3)
    for norm in (4.0, 2.0):
        gradient = torch.tensor([norm])
        assert clipper.clip([gradient]) == norm
        assert gradient.item() == norm
        assert clipper.limit is None
    clipper.clip([torch.tensor([1.0])])
    assert clipper.limit == 2.0
    gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert clipper.clip(gradients) == 5.0
    assert torch.cat(gradients).norm().item() == pytest.approx(2.0, rel=1e-5)
    # remembered are norms before clipping, the last three
    assert clipper.limit == 2.0
    assert math.isinf(clipper.clip([torch.tensor([math.inf])]))
    other = AdaptiveClipper(None, 50.0, 3)
    other.restore(clipper.tensors())
    assert (other.limit, other.tensors()["norms"].tolist()) == (2.0, [2.0, 1.0, 5.0])


def test_masters_keep_what_half_precision_loses() -> None:
    network = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        network.weight.fill_(1.0)
    masters = Masters(network, log_scale=4.0, growth=0.5)
    for _ in range(4):
        masters.forget_gradients()
        (network.weight.sum() * masters.scale).backward()
        assert [g.item() for g in masters.take_gradients()] == pytest.approx([1.0], rel=5e-3)
        with torch.no_grad():
            masters.weights[0].sub_(1e-3)
        masters.publish()
        masters.adapt(True)
        masters.adapt(False)
    # one step of 1e-3 is lost in bfloat16, four are not
    assert masters.weights[0].item() == pytest.approx(0.996)
    assert network.weight.item() == pytest.approx(0.996, abs=2e-3) and network.weight.item() < 1
    assert masters.log_scale == 2.0
    other = Masters(torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16), 4.0, 0.5)
    other.restore(masters.tensors())
    assert torch.equal(other.weights[0], masters.weights[0]) and other.log_scale == 2.0
    assert torch.equal(other.live[0], network.weight)


def test_float32_weights_are_their_own_masters() -> None:
    network = torch.nn.Linear(2, 1)
    masters = Masters(network)
    assert masters.weights[0] is network.weight
    masters.adapt(False)
    assert masters.scale == 1.0


def test_averages_begin_at_the_weights() -> None:
    masters = Masters(torch.nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        masters.weights[0].fill_(2.0)
    average = Average(masters, 0.75)
    with torch.no_grad():
        masters.weights[0].fill_(4.0)
    average.update(masters)
    assert average.tensors()["weight"].item() == 2.5


def test_parts_of_equal_load_by_hand() -> None:
    assert parts_of_equal_load([5, 1, 4, 2], 2) == [[0, 1], [2, 3]]
    assert parts_of_equal_load([1, 1, 1, 1], 2) == [[0, 2], [1, 3]]
    assert parts_of_equal_load([3, 3], 4) == [[0], [1]]
    assert parts_of_equal_load([0, 0, 7], 2) == [[2], [0, 1]]
