"""Clipping, float32 masters and averages of them."""

from __future__ import annotations

import math

import pytest
import torch

from geo3d.work.gradients import Clipper, Masters, gradient_norm
from geo3d.work.state import TrainingState, running_average


def clip(clipper: Clipper, gradients: list[torch.Tensor]) -> float:
    """Clip and return the norm before."""
    norm = gradient_norm(gradients)
    clipper.clip(gradients, norm)
    return float(norm)


def test_the_limit_follows_the_norms() -> None:
    clipper = Clipper(None, 50.0, 3)
    for norm in (4.0, 2.0):
        gradient = torch.tensor([norm])
        assert clip(clipper, [gradient]) == norm
        assert gradient.item() == norm
        assert clipper.limit is None
    clip(clipper, [torch.tensor([1.0])])
    assert clipper.limit == 2.0
    gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    assert clip(clipper, gradients) == 5.0
    assert torch.cat(gradients).norm().item() == pytest.approx(2.0, rel=1e-5)
    # remembered are norms before clipping, the last three
    assert clipper.limit == 2.0
    assert math.isinf(clip(clipper, [torch.tensor([math.inf])]))
    other = Clipper(None, 50.0, 3)
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


def test_averages_follow_the_masters_not_what_runs() -> None:
    network = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    masters = Masters(network)
    with torch.no_grad():
        masters.weights[0].fill_(2.0)
    average = running_average(masters.weights, lambda step: 0.75)
    state = TrainingState(network, torch.optim.SGD(masters.weights, 0.1), [average])
    state.masters = masters
    with torch.no_grad():
        masters.weights[0].fill_(4.001)
    state.update_averages()
    assert next(average.module.parameters()).item() == pytest.approx(2.50025, abs=1e-6)


def test_a_fixed_limit_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (3, 50)]
    for limit in (0.5, 100.0):
        gradients = [torch.randn(w.shape, generator=generator) for w in weights]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        wanted = torch.nn.utils.clip_grad_norm_(weights, limit)
        assert clip(Clipper(limit), gradients) == float(wanted)
        for weight, gradient in zip(weights, gradients, strict=True):
            assert torch.equal(weight.grad, gradient)
    free = torch.tensor([3.0, 4.0])
    assert clip(Clipper(), [free]) == 5.0 and free.tolist() == [3.0, 4.0]
