"""Every kind of student through the one sampler, on a flow whose map is known in closed form."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from distill_helpers import DENSE, SPARSE
from flow_helpers import NormalLaw
from object_pipelines import cut_out_image, tiny_pipeline
from torch import Tensor

from geo3d.distill.flow import phase_end
from geo3d.errors import ConfigError
from scenes.objects.pipeline import GenerateConfig
from scenes.objects.samplers import (
    SamplerConfig,
    Student,
    sample,
    sampler_to_upstream,
    upstream_to_sampler,
)
from scenes.objects.slat_flow import SLatFlowModel
from scenes.objects.sparse import SparseTensor
from scenes.objects.ss_flow import SparseStructureFlowModel
from scenes.objects.training_batch import TwoTimes, as_mean_velocity

LAW = NormalLaw()
COND = torch.zeros(1, 1, 1)
COUNT = 4000


def noise() -> Tensor:
    """Return the quantiles of the normal law, in float64."""
    return torch.special.ndtri((torch.arange(COUNT).double() + 0.5) / COUNT)[:, None]


def exact() -> Tensor:
    ones = torch.ones(COUNT).double()
    return noise() - LAW.mean_to_data(noise(), ones)


def told(law: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a network that is told 1000 t made of a function of t."""
    return lambda x, *rest: law(x, *(t.double() / 1000 for t in rest[:-1]))


def phased(x: Tensor, t: Tensor, phases: int) -> Tensor:
    """Return the mean velocity to the end of the phase."""
    return LAW.mean(x, t, phase_end(t, 1e-3, phases))


EXACT: dict[str, tuple[Callable[..., Tensor], Student, list[int]]] = {
    # consistency (CM, sCM), BOOT and data-free maps, MDT with its exact mean velocity: one jump
    "map to the data": (LAW.mean_to_data, "velocity", [1]),
    "map to the data, jumping": (LAW.mean_to_data, "jump", [1]),
    # phased consistency in as many even steps as phases, or a multiple
    "two phases": (functools.partial(phased, phases=2), "velocity", [2]),
    "four phases": (functools.partial(phased, phases=4), "velocity", [4]),
    # MeanFlow, Lagrangian, Eulerian and data-free flow maps: any number of steps
    "flow map": (LAW.mean, "flow_map", [1, 2, 5]),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("rescale", [1.0, 3.0])
def test_an_exact_student_lands_on_the_exact_map(name: str, rescale: float) -> None:
    law, student, counts = EXACT[name]
    if "phases" in name and rescale != 1:
        return
    for steps in counts:
        config = SamplerConfig(steps=steps, rescale_t=rescale, guidance_scale=None, student=student)
        found = sample(told(law), noise(), COND, config)
        assert found.calls == steps
        torch.testing.assert_close(found.x, exact(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("steps", [2, 4])
def test_jumps_keep_the_distribution(steps: int) -> None:
    """A consistency function in several steps: other samples, the same distribution."""
    generator = torch.Generator().manual_seed(0)
    config = SamplerConfig(steps=steps, rescale_t=1.0, guidance_scale=None, student="jump")
    found = sample(
        told(LAW.mean_to_data), noise(), COND, config,
        renew=lambda: torch.randn(COUNT, 1, generator=generator).double(),
    ).x  # fmt: skip
    assert (found - exact()).abs().mean() > 0.1
    assert found.mean().item() == pytest.approx(LAW.centre, abs=4 * LAW.width / math.sqrt(COUNT))
    assert found.std().item() == pytest.approx(LAW.width, rel=4 / math.sqrt(2 * COUNT))


def test_euler_steps_and_the_misuse_of_a_map() -> None:
    """The field needs many steps.  Euler steps of a map to the data undershoot: jump instead."""
    errors = []
    for steps in (1, 25, 50):
        config = SamplerConfig(steps=steps, rescale_t=1.0, guidance_scale=None)
        errors.append((sample(told(LAW.velocity), noise(), COND, config).x - exact()).abs().max())
    assert errors[0] > 0.5 and errors[1] / errors[2] == pytest.approx(2, rel=0.1)
    two = SamplerConfig(steps=2, rescale_t=1.0, guidance_scale=None)
    assert (sample(told(LAW.mean_to_data), noise(), COND, two).x - exact()).abs().max() > 0.05


def test_a_map_is_guided_like_a_velocity() -> None:
    def network(x: Tensor, t: Tensor, end: Tensor, cond: Tensor) -> Tensor:
        return cond[:, 0] * (t - end)[:, None] / 1000

    config = SamplerConfig(
        steps=2, rescale_t=1.0, guidance_scale=3.0, interval=(0.9, 1.0), student="flow_map"
    )
    cond = torch.full((1, 1, 1), 2.0)
    for together in (False, True):
        x = sample(network, torch.zeros(1, 1), cond, config, together=together).x
        # the first step: 0.5 * 3 * (2 * 0.5); the second: 0.5 * (2 * 0.5)
        assert x.item() == pytest.approx(-2.0)


def two_times(network: torch.nn.Module) -> TwoTimes:
    student = TwoTimes(network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return student.eval()


def test_students_with_two_times_and_their_folded_forms_agree() -> None:
    """A student folded for n even steps is sampled like a teacher and gives the same."""
    generator = torch.Generator().manual_seed(2)
    cond = torch.randn(1, 3, 6, generator=generator)
    coords = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4], [1, 5, 0, 0], [1, 7, 7, 7]])
    cases: list[tuple[TwoTimes, torch.nn.Module, Any]] = [
        (
            two_times(SparseStructureFlowModel(DENSE)),
            SparseStructureFlowModel(DENSE),
            torch.randn(2, 2, 4, 4, 4, generator=generator),
        ),
        (
            two_times(SLatFlowModel(SPARSE)),
            SLatFlowModel(SPARSE),
            SparseTensor(torch.randn(4, 2, generator=generator), coords, 2),
        ),
    ]
    for student, plain, start in cases:
        for steps in (1, 2, 3):
            mapped = SamplerConfig(
                steps=steps, rescale_t=1.0, guidance_scale=None, student="flow_map"
            )
            euler = SamplerConfig(steps=steps, rescale_t=1.0, guidance_scale=None)
            plain.load_state_dict(student.folded(1 / steps))
            one, other = (
                sample(network, start, cond, config).x
                for network, config in ((student, mapped), (plain, euler))
            )
            if isinstance(one, SparseTensor):
                one, other = one.feats, other.feats
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_network_is_the_mean_velocity_of_training() -> None:
    student = two_times(SparseStructureFlowModel(DENSE))
    x, cond = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 3, 6)
    t, s = torch.tensor([0.75, 1.0]), torch.tensor([0.25, 0.0])
    found = student(x, 1000 * t, 1000 * s, cond)
    torch.testing.assert_close(found, as_mean_velocity(student, None)(x, t, s, cond))


def test_jumps_of_a_pipeline_draw_from_each_objects_own_seed() -> None:
    jump = SamplerConfig(steps=3, rescale_t=1.0, guidance_scale=None, student="jump")
    config = GenerateConfig(structure=jump, latent=jump, outputs=())
    pipeline, images = tiny_pipeline(), [cut_out_image()]
    together = pipeline.generate(images, [3, 4], config).objects
    for made in together:
        (alone,) = pipeline.generate(images, [made.seed], config).objects
        assert torch.equal(made.structure, alone.structure)
        assert made.latent is not None and alone.latent is not None
        assert torch.equal(made.latent.feats, alone.latent.feats)


def test_files_and_mistakes() -> None:
    config = SamplerConfig(steps=2, guidance_scale=None, student="jump")
    entry = sampler_to_upstream(config)
    assert upstream_to_sampler(entry["name"], entry["params"]).student == "jump"
    assert "student" not in sampler_to_upstream(SamplerConfig())["params"]
    with pytest.raises(ConfigError) as caught:
        SamplerConfig(student="leap")  # pyright: ignore[reportArgumentType]
    assert caught.value.code == "sampler.bad_config"
    with pytest.raises(ConfigError, match="new noise"):
        sample(told(LAW.mean_to_data), noise(), COND, config)
