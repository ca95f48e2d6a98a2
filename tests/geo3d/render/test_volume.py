"""Rays, intervals, compositing, losses and cones, by hand and by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geo3d.render import intervals, volume
from geo3d.render.cameras import Camera
from geo3d.render.rays import camera_rays, cone_samples, contract, scale_weights, uncontract
from geo3d.render.volume import distortion, interlevel, smooth_interlevel

CAMERA = Camera(np.eye(4), 10.0, 10.0, 4.0, 3.0, 8, 6)


def test_rays_measure_depth_and_agree_with_the_camera() -> None:
    rays = camera_rays(CAMERA)
    torch.testing.assert_close(rays.directions[:, 2], torch.ones(48))
    _, unit = CAMERA.rays()
    np.testing.assert_allclose(torch.nn.functional.normalize(rays.directions), unit, atol=1e-6)
    torch.testing.assert_close(rays.radii, torch.full((48,), 0.1 * 2 / math.sqrt(12)))
    part = rays.select(slice(3, 5)).between(1.0, 2.0)
    assert len(part) == 2 and part.far.tolist() == [2.0, 2.0]


def test_one_interval_by_hand() -> None:
    direction = torch.tensor([[0.0, 0.0, 2.0]])
    found = volume.alpha_weights(torch.tensor([[0.5]]), torch.ones(1, 1), direction)
    assert found.weights.item() == pytest.approx(1 - math.exp(-1))
    end = torch.tensor([10.0]), torch.tensor([11.0])
    pixel = volume.composite(
        found.weights, torch.ones(1, 1, 3), torch.tensor([[10.5]]), *end, torch.zeros(1, 3)
    )
    assert pixel.depth.item() == pytest.approx(10.5)
    assert pixel.acc.item() == pytest.approx(0.632121, abs=1e-6)


def test_compositing_gradients_and_empty_rays() -> None:
    generator = torch.Generator().manual_seed(0)
    density = torch.rand(2, 5, generator=generator, dtype=torch.float64).requires_grad_()
    rgb = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    lengths = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    directions = torch.ones(2, 3, dtype=torch.float64)
    middles = lengths.cumsum(1)

    def render(density: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
        weights = volume.alpha_weights(density, lengths, directions).weights
        pixels = volume.composite(weights, rgb, middles, middles[:, 0], middles[:, -1], rgb[:, 0])
        return torch.cat([pixels.rgb, pixels.depth[:, None], pixels.acc[:, None]], dim=1)

    assert torch.autograd.gradcheck(render, (density, rgb))
    empty = volume.composite(
        torch.zeros(1, 5), torch.ones(1, 5, 3), torch.ones(1, 5), torch.ones(1), torch.ones(1) * 2
    )
    assert empty.rgb.tolist() == [[0, 0, 0]] and empty.depth.item() == 1


def test_segments_are_sampled_inside_only() -> None:
    segments = torch.tensor([[[2.0, 3.0], [10.0, 13.0], [13.0, 13.0]]])
    found = intervals.segment_samples(segments, 16)
    # a quarter of the matter lies in the first segment
    assert (found.middles[0, :4] < 3).all() and (found.middles[0, 4:] > 10).all()
    torch.testing.assert_close(found.lengths, torch.full((1, 16), 0.25))
    torch.testing.assert_close(found.middles[0, 0], torch.tensor(2.125))
    assert found.edges[0, 0] == 2 and found.edges[0, -1] == pytest.approx(13)


@pytest.mark.parametrize("falloff", [None, 0.5])
def test_segment_lengths_cover_the_matter_once(falloff: float | None) -> None:
    generator = torch.Generator().manual_seed(1)
    cuts = torch.rand(50, 6, generator=generator).mul(30).sort(dim=1)[0].view(50, 3, 2)
    cuts[10:20, 2] = float("inf")
    cuts[20:30, 1:] = 0
    jitter = torch.rand(50, 1, generator=generator)
    found = intervals.segment_samples(cuts, 24, jitter, falloff)
    real = torch.where(torch.isfinite(cuts[..., 0]), cuts[..., 1] - cuts[..., 0], 0).clamp(min=0)
    torch.testing.assert_close(found.lengths.sum(1), real.sum(1), rtol=1e-4, atol=1e-4)
    at = found.middles[..., None]
    inside = (at >= cuts[:, None, :, 0] - 1e-4) & (at <= cuts[:, None, :, 1] + 1e-4)
    assert inside.any(-1).all()
    assert (found.middles.diff(dim=1) >= -1e-5).all()
    if falloff is not None:
        first = found.lengths[20:30]
        assert (first[:, 1] < first[:, -2]).all()


def test_constant_matter_looks_the_same_however_it_is_sampled() -> None:
    segments = torch.tensor([[[1.0, 2.0], [4.0, 4.5]]])
    direction = torch.tensor([[0.0, 0.0, 1.0]])
    for count, falloff in ((4, None), (64, None), (16, 0.3)):
        found = intervals.segment_samples(segments, count, None, falloff)
        weights = volume.alpha_weights(torch.full((1, count), 0.7), found.lengths, direction)
        assert weights.weights.sum().item() == pytest.approx(1 - math.exp(-0.7 * 1.5), abs=1e-5)


def test_warps_undo_each_other() -> None:
    near, far = torch.tensor([[0.5]]).double(), torch.tensor([[200.0]]).double()
    s = torch.linspace(0, 1, 20).double()[None]
    for warp in ("linear", "power", "piecewise"):
        t = intervals.s_to_t(s, near, far, warp)
        assert (t.diff() > 0).all()
        torch.testing.assert_close(intervals.t_to_s(t, near, far, warp), s)


def test_distortion_by_hand_and_by_brute_force() -> None:
    s = torch.tensor([[0.0, 0.5, 1.0]])
    found = distortion(s, torch.tensor([[0.5, 0.5]]))
    assert found.item() == pytest.approx(1 / 3)
    generator = torch.Generator().manual_seed(2)
    s = torch.rand(7, 13, generator=generator).sort(dim=1)[0]
    w = torch.rand(7, 12, generator=generator)
    middle = (s[:, 1:] + s[:, :-1]) / 2
    pairs = w[:, :, None] * w[:, None] * (middle[:, :, None] - middle[:, None]).abs()
    expected = pairs.sum((1, 2)) + (w**2 * s.diff(dim=1)).sum(1) / 3
    torch.testing.assert_close(distortion(s, w), expected)


def test_a_proposal_that_covers_costs_nothing() -> None:
    s = torch.linspace(0, 1, 9)[None]
    w = torch.full((1, 8), 0.125)
    assert interlevel(s, w, s, w).sum() == 0
    assert interlevel(s, w, s, w * 0.5).sum() > 0
    assert smooth_interlevel(s, w, s, w).sum() < smooth_interlevel(s, w, s, w * 0.5).sum()


def test_six_points_have_the_moments_of_the_cone() -> None:
    origin, direction = torch.zeros(1, 3).double(), torch.tensor([[0.0, 0, 1]]).double()
    ends = torch.tensor([[2.0]]).double(), torch.tensor([[3.0]]).double()
    radius = torch.tensor([0.2]).double()
    points, spread = cone_samples(origin, direction, radius, *ends, torch.eye(3)[:1].double())
    # depth of a cone's points has density t^2: mean of t^3 over mean of t^2
    t = torch.linspace(2, 3, 200001).double()
    mean = (t**3).sum() / (t**2).sum()
    variance = (t**4).sum() / (t**2).sum() - mean**2
    z = points[0, 0, :, 2]
    assert z.mean().item() == pytest.approx(mean.item(), rel=1e-6)
    assert z.var(unbiased=False).item() == pytest.approx(variance.item(), rel=1e-4)
    torch.testing.assert_close(points[0, 0, :, :2].norm(dim=1), 0.2 * z / math.sqrt(2))
    torch.testing.assert_close(spread[0, 0], 0.1 * z / math.sqrt(2))


def test_contraction_and_its_inverse() -> None:
    x = torch.tensor([[0.3, 0.2, 0.1], [30.0, -20, 5]]).double()
    y, spread = contract(x, torch.ones(2).double())
    assert torch.equal(y[0], x[0]) and y[1].norm() < 2
    torch.testing.assert_close(uncontract(y), x)
    # the scale is the cube root of the volume's
    jacobian = torch.autograd.functional.jacobian(lambda p: contract(p[None])[0][0], x[1])
    assert spread is not None
    assert spread[1].item() == pytest.approx(abs(torch.linalg.det(jacobian).item()) ** (1 / 3))


def test_wide_points_see_coarse_levels_only() -> None:
    weights = scale_weights(torch.tensor([0.0, 0.1]), torch.tensor([4.0, 400.0]))
    assert weights[0].tolist() == [1, 1] and weights[1, 0] > 0.5 > weights[1, 1]
