"""Euler steps against closed forms; guidance; progress and cancelling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from geo3d.distill.conventions import scale_to_strength, strength_to_scale
from geo3d.errors import Cancelled, ConfigError, ShapeError
from scenes.objects.samplers import (
    Conditions,
    SamplerConfig,
    sample,
    sampler_to_upstream,
    upstream_to_sampler,
)
from scenes.objects.sparse import SparseTensor

PLAIN = SamplerConfig(steps=4, rescale_t=1.0, guidance_scale=None)
COND = torch.tensor([[[2.0]]])


def constant(x: torch.Tensor, steps: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
    """Return the condition as velocity, whatever the state."""
    return cond[:, 0, 0].view(-1, *[1] * (x.ndim - 1)).expand_as(x)


def test_a_constant_field_is_integrated_exactly() -> None:
    found = sample(constant, torch.zeros(3, 2), COND, PLAIN)
    torch.testing.assert_close(found.x, torch.full((3, 2), -2.0))
    assert found.calls == 4 and found.steps == []


def test_a_linear_field_converges_with_the_first_order() -> None:
    def field(x: torch.Tensor, steps: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return x

    errors = []
    for n in (100, 200):
        config = SamplerConfig(steps=n, rescale_t=1.0, guidance_scale=None)
        x = sample(field, torch.ones(1, 1, dtype=torch.float64), COND, config).x
        errors.append(abs(x.item() - math.exp(-1)))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)


def test_the_estimate_of_straight_paths_is_the_data() -> None:
    data, noise = torch.tensor([[0.3, -1.0]]), torch.tensor([[2.0, 0.5]])
    s = PLAIN.sigma_min

    def field(x: torch.Tensor, steps: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return (1 - s) * noise - data

    found = sample(field, noise, COND, PLAIN, record=True)
    for step in found.steps:
        torch.testing.assert_close(step.estimate, data, rtol=1e-5, atol=2e-5)


def test_guidance_acts_within_its_interval() -> None:
    config = SamplerConfig(steps=4, rescale_t=1.0, guidance_scale=3.0, interval=(0.5, 0.75))
    found = sample(constant, torch.zeros(1, 1), COND, config)
    # Two of four steps go three times as far: the negative velocity is zero.
    assert found.x.item() == pytest.approx(-(2 * 0.25 * 2 + 2 * 0.25 * 6))
    assert found.calls == 6 == config.evaluations()
    together = sample(constant, torch.zeros(1, 1), COND, config, together=True)
    assert together.calls == 4 and torch.equal(together.x, found.x)


def test_scale_one_needs_no_negative_branch() -> None:
    config = SamplerConfig(steps=2, guidance_scale=1.0, interval=(0.0, 1.0))
    assert sample(constant, torch.zeros(1, 1), COND, config).calls == 2


def test_times_by_hand() -> None:
    assert SamplerConfig(steps=2, rescale_t=3.0).times() == pytest.approx([1, 0.75, 0])


def test_networks_are_told_a_thousand_times_the_time() -> None:
    told = []

    def field(x: torch.Tensor, steps: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        told.append(steps)
        return x

    sample(field, torch.ones(2, 1), COND, PLAIN)
    assert [t.tolist() for t in told] == [[1000.0] * 2, [750.0] * 2, [500.0] * 2, [250.0] * 2]
    assert told[0].dtype == torch.float32


def test_several_images() -> None:
    images = [torch.full((1, 1, 1), v) for v in (1.0, 3.0)]
    for views in ("stochastic", "multidiffusion"):
        found = sample(constant, torch.zeros(1, 1), Conditions(images, views=views), PLAIN)
        assert found.x.item() == pytest.approx(-2)
    one = SamplerConfig(steps=1, guidance_scale=None)
    in_turn = Conditions(images, views="stochastic")
    assert sample(constant, torch.zeros(1, 1), in_turn, one).x == -1


@pytest.mark.parametrize("together", [False, True])
def test_sparse_states_with_an_empty_item(together: bool) -> None:
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [2, 0, 0, 0]])

    def field(x: SparseTensor, steps: torch.Tensor, cond: torch.Tensor) -> SparseTensor:
        assert len(steps) == len(cond) == x.batch_size
        return x.replace(cond[x.batch_index, 0])

    noise = SparseTensor(torch.zeros(3, 1), coords, 3)
    cond = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    config = SamplerConfig(steps=2, rescale_t=1.0, guidance_scale=2.0, interval=(0.0, 1.0))
    found = sample(field, noise, cond, config, together=together)
    torch.testing.assert_close(found.x.feats, torch.tensor([[-2.0], [-2.0], [-6.0]]))
    assert found.x.grid is noise.grid


def test_progress_is_told_every_step_and_may_cancel() -> None:
    events: list[Mapping[str, Any]] = []
    sample(constant, torch.zeros(1, 1), COND, PLAIN, progress=events.append)
    assert [event["step"] for event in events] == [0, 1, 2, 3, 4]

    calls = 0

    def field(x: torch.Tensor, steps: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x

    def stop(event: Mapping[str, Any]) -> None:
        if event["step"] == 2:
            raise Cancelled()

    with pytest.raises(Cancelled):
        sample(field, torch.zeros(1, 1), COND, PLAIN, progress=stop)
    assert calls == 2


def test_published_settings_go_back_and_forth() -> None:
    assert strength_to_scale(5.0) == 6.0 and scale_to_strength(1.1) == 0.1
    config = SamplerConfig(steps=3, rescale_t=2.0, guidance_scale=1.1, interval=(0.25, 1.0))
    entry = sampler_to_upstream(config)
    again = upstream_to_sampler(entry["name"], entry["params"], entry["args"]["sigma_min"])
    assert again == config
    plain = sampler_to_upstream(PLAIN)
    assert upstream_to_sampler(plain["name"], plain["params"]).guidance_scale is None
    assert upstream_to_sampler("FlowEulerCfgSampler", {"cfg_interval": (0.5, 1)}).interval == (0, 1)


def test_mistakes_are_named() -> None:
    cases: list[dict[str, Any]] = [{"steps": 0}, {"rescale_t": 0.0}, {"interval": (0.6, 0.5)}]
    for bad in cases:
        with pytest.raises(ConfigError) as error:
            SamplerConfig(**bad)
        assert error.value.code == "sampler.bad_config"
    with pytest.raises(ConfigError) as error:
        upstream_to_sampler("Heun", {})
    assert error.value.code == "sampler.unknown"
    with pytest.raises(ShapeError) as wrong:
        sample(constant, torch.zeros(3, 1), torch.zeros(2, 1, 1), PLAIN)
    assert wrong.value.code == "sampler.wrong_condition"


def test_settings_that_are_not_given_are_the_published_ones() -> None:
    config = SamplerConfig()
    assert (config.steps, config.rescale_t, config.guidance_scale) == (25, 3.0, 6.0)
    assert config.interval == (0.5, 1.0) and config.student == "velocity"
    assert config.sigma_min == pytest.approx(1e-5)
    # What a published file does not say, the published samplers set: 50 even steps, w = 3.
    assert upstream_to_sampler("FlowEulerGuidanceIntervalSampler", {}) == SamplerConfig(
        steps=50, rescale_t=1.0, guidance_scale=4.0, interval=(0.0, 1.0)
    )
    assert upstream_to_sampler("FlowEulerSampler", {"steps": 7}).guidance_scale is None
    everywhere = {"cfg_interval": (0.2, 0.3), "cfg_strength": 1.0}
    config = upstream_to_sampler("FlowEulerCfgSampler", everywhere)
    assert (config.guidance_scale, config.interval) == (2.0, (0.0, 1.0))


def test_the_least_a_sampler_can_do_is_allowed() -> None:
    config = SamplerConfig(steps=1, rescale_t=0.5, guidance_scale=2.0, interval=(1.0, 1.0))
    assert config.guides(1.0) and not config.guides(0.999) and config.evaluations() == 2
    for bad in ({"steps": 0}, {"rescale_t": 0.0}, {"interval": (0.6, 0.5)}, {"student": "x"}):
        with pytest.raises(ConfigError, match=r"sampler.bad_config"):
            SamplerConfig(**bad)  # type: ignore[arg-type]


def test_one_condition_serves_all_items_and_a_few_serve_none() -> None:
    found = sample(constant, torch.zeros(3, 1), torch.tensor([[[1.0]], [[2.0]], [[3.0]]]), PLAIN)
    assert found.x.flatten().tolist() == pytest.approx([-1.0, -2.0, -3.0])
    with pytest.raises(ShapeError, match=r"sampler.wrong_condition"):
        sample(constant, torch.zeros(3, 1), torch.zeros(2, 1, 1), PLAIN)


def test_a_negative_condition_is_led_away_from_and_images_are_averaged() -> None:
    config = SamplerConfig(steps=2, rescale_t=1.0, guidance_scale=3.0, interval=(0.0, 1.0))
    images = [torch.tensor([[[1.0]]]), torch.tensor([[[4.0]]]), torch.tensor([[[7.0]]])]
    given = Conditions(images, negative=torch.tensor([[[10.0]]]))
    for together in (False, True):
        found = sample(constant, torch.zeros(2, 1), given, config, together=together)
        # the mean is 4; 10 + 3 (4 - 10) = -8 in each of two half steps
        torch.testing.assert_close(found.x, torch.full((2, 1), 8.0))
        assert found.calls == (2 if together else 8)
