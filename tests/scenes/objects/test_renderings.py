"""Images of Gaussians and radiance fields, against formulas, brute force and the mesh's view."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera, orbit
from scenes.objects.gaussian_files import AS_STORED
from scenes.objects.gaussians import SH_C0, SMOOTHING, Gaussians, cube_camera, render_gaussians
from scenes.objects.radiance import RadianceField, march, render_radiance, sample_field


def gaussians(
    xyz: list[list[float]], colors: list[list[float]], sigma: float, opacity: float
) -> Gaussians:
    count = len(xyz)
    return Gaussians(
        torch.tensor(xyz) + 0.5,
        (torch.tensor(colors)[:, None] - 0.5) / SH_C0,
        torch.full((count, 3), math.log(sigma)),
        torch.zeros(count, 4),
        torch.full((count, 1), math.log(opacity / (1 - opacity))),
        AS_STORED,
    )


def front(size: int = 65) -> Camera:
    """Return a camera two units before the cube's centre, on the side of -y."""
    c2w = np.eye(4)
    c2w[:3, :3] = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    c2w[:3, 3] = [0, -2, 0]
    return Camera(c2w, 100.0, 100.0, size / 2, size / 2, size, size)


def test_one_gaussian_is_a_bell_of_the_right_width() -> None:
    image = render_gaussians(gaussians([[0.0, 0, 0]], [[1.0, 0, 0]], 0.1, 0.8), front())
    variance = (100 * 0.1 / 2) ** 2
    opacity = 0.8 * variance / (variance + SMOOTHING)
    for offset in (0, 3, 7):
        alpha = opacity * math.exp(-(offset**2) / 2 / (variance + SMOOTHING))
        found = image[32, 32 + offset]
        assert found[1] == found[2] == pytest.approx(255 * (1 - alpha), abs=1)
        assert found[0] == 255 and np.array_equal(found, image[32 - offset, 32])


def test_the_nearer_gaussian_hides_the_other() -> None:
    colors = [[0.0, 0, 1], [1.0, 0, 0]]
    both = gaussians([[0.0, 0.3, 0], [0.0, -0.3, 0]], colors, 0.1, 0.9)
    red, _, blue = render_gaussians(both, front(), (0.0, 0.0, 0.0))[32, 32]
    assert red > 220 and 15 < blue < 30
    behind = gaussians([[0.0, -3.0, 0]], [[0.0, 0, 1]], 0.1, 0.9)
    assert (render_gaussians(behind, front()) == 255).all()


def test_sides_and_up_are_those_of_the_mesh() -> None:
    up_right = gaussians([[0.3, 0.0, 0.2]], [[0.0, 0, 0]], 0.02, 0.99)
    dark = render_gaussians(up_right, front())[..., 0] < 128
    rows, columns = dark.nonzero()
    assert rows.mean() == pytest.approx(32 - 10, abs=1) and columns.mean() == pytest.approx(
        47, abs=1
    )
    # the exported mesh is (x, z, -y); its view from any side shows the same place
    cube = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    exported = Mesh(cube[:, [0, 2, 1]] * [1, 1, -1], np.zeros((0, 3), np.int64), name="cube")
    for azimuth in (0.0, 0.7, 2.0):
        mine = cube_camera(azimuth).project(np.array([[0.3, -0.1, 0.2]]))[0]
        theirs = orbit(exported, azimuth, 0.3, up="y", size=256).project(
            np.array([[0.3, 0.2, 0.1]])
        )[0]
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def field(
    coords: list[list[int]], resolution: int, rank: int = 3, dim: int = 4, seed: int = 0
) -> RadianceField:
    generator = torch.Generator().manual_seed(seed)
    n = len(coords)
    return RadianceField(
        (torch.tensor(coords) + 0.5).double() / resolution,
        torch.full((n, 1), round(math.log2(resolution)), dtype=torch.uint8),
        1 + 0.5 * torch.randn(n, rank, 3, dim, generator=generator).double(),
        3 * torch.randn(n, rank, generator=generator).double(),
        torch.randn(n, rank, 1, 3, generator=generator).double(),
    )


def test_a_constant_voxel_absorbs_by_its_length() -> None:
    one = field([[0, 0, 0]], 1)
    flat = RadianceField(
        one.position, one.depth, torch.ones_like(one.trivec), one.density, one.features_dc
    )
    density = torch.nn.functional.softplus(one.density.sum())
    color = torch.sigmoid(SH_C0 * one.features_dc.sum(1)[0, 0])
    origins = torch.tensor([[0.1, -2.0, 0.2], [0.9, -2.0, 0.0]]).double()
    directions = torch.tensor([[0.0, 1.0, 0.0]] * 2).double()
    seen = march(flat, origins, directions, steps=1000)
    opacity = 1 - torch.exp(-density)
    assert seen.opacity[0].item() == pytest.approx(opacity.item(), rel=5e-3)
    torch.testing.assert_close(seen.color[0], opacity * color, rtol=5e-3, atol=0)
    assert seen.opacity[1] == 0 and seen.color[1].eq(0).all()
    assert 1.5 * seen.opacity[0] < seen.depth[0] < 2.5 * seen.opacity[0]


def test_samples_are_products_of_interpolated_vectors() -> None:
    coords, resolution, dim = [[0, 1, 1], [1, 0, 1]], 2, 4
    two = field(coords, resolution, dim=dim)
    points = torch.tensor([[0.1, 0.9, 0.55], [0.5, 0.01, 0.99]]).double()
    density, color = sample_field(two, points, torch.tensor([0, 1]), resolution)
    for i in range(2):
        total, shade = 0.0, torch.zeros(3).double()
        for r in range(3):
            product = 1.0
            for axis in range(3):
                place = (points[i, axis].item() * resolution - coords[i][axis]) * dim - 0.5
                j = min(max(math.floor(place), 0), dim - 2)
                a, b = two.trivec[i, r, axis, j : j + 2].tolist()
                product *= a + (place - j) * (b - a)
            total += two.density[i, r].item() * product
            shade += two.features_dc[i, r, 0] * product
        assert density[i].item() == pytest.approx(math.log1p(math.exp(total)))
        torch.testing.assert_close(color[i], torch.sigmoid(SH_C0 * shade))


def test_the_march_is_the_sum_over_steps_and_has_gradients() -> None:
    some = field([[0, 0, 0], [1, 2, 1], [3, 3, 0]], 4, rank=2)
    for tensor in (some.trivec, some.density, some.features_dc):
        tensor.requires_grad_()
    origins = torch.tensor([[-0.4, -1.0, -0.35], [0.05, -1.0, 0.0]]).double()
    target = torch.tensor([[-0.3, 0.6, -0.4], [-0.2, 0.2, -0.1]]).double()
    directions = torch.nn.functional.normalize(target - origins)
    seen = march(some, origins, directions, steps=2)
    for i in range(2):
        left, color = 1.0, torch.zeros(3).double()
        for k in range(40):
            point = origins[i] + k / 8 * directions[i] + 0.5
            own = [v for v in range(3) if ((point - some.position[v]).abs() < 1 / 8).all()]
            if own:
                density, shade = sample_field(some, point[None], torch.tensor(own), 4)
                share = 1 - math.exp(-density.item() / 8)
                color, left = color + left * share * shade[0], left * (1 - share)
        assert seen.opacity[i].item() == pytest.approx(1 - left, abs=1e-12)
        torch.testing.assert_close(seen.color[i], color)
    assert seen.opacity.max() > 0.01
    names = (some.trivec, some.density, some.features_dc)
    assert torch.autograd.gradcheck(
        lambda *parts: (
            march(
                RadianceField(some.position, some.depth, *parts), origins, directions, steps=2
            ).color
        ),
        names,
    )


def test_images_and_empty_fields() -> None:
    dense = field([[x, y, z] for x in range(2) for y in range(2) for z in range(2)], 2)
    thick = RadianceField(
        dense.position, dense.depth, torch.ones_like(dense.trivec), dense.density.abs() * 1e3,
        dense.features_dc,
    )  # fmt: skip
    image = render_radiance(thick, cube_camera(0.4, size=32))
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    assert (image[0, 0] == 255).all() and not (image[16, 16] == 255).all()
    none = RadianceField(*(getattr(dense, n)[:0] for n in vars(dense)))
    assert (render_radiance(none, cube_camera(0.0, size=8)) == 255).all()
