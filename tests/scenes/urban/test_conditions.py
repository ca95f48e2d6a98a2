"""Layout maps against Embree, a brute-force search and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest

from geo3d.layout.layout import Layout, Primitive, box, ellipsoid
from geo3d.mesh.mesh import Mesh
from geo3d.render.cameras import Camera
from geo3d.render.raycast import raycast
from geo3d.synth.streets.generate import generate_street
from scenes.urban.conditions import (
    RayScene,
    condition_image,
    intrinsics_kitti,
    is_closed,
    semantic_colors,
    street_camera,
)


def ahead(*primitives: Primitive) -> Layout:
    return Layout("test", primitives, np.eye(4)[None])


def camera(size: int = 8, c2w: np.ndarray | None = None) -> Camera:
    pose, focal = np.eye(4) if c2w is None else c2w, float(size)
    return Camera(pose, focal, focal, size / 2, size / 2, size, size)


def brute_force(layout: Layout, view: Camera) -> tuple[np.ndarray, np.ndarray, list]:
    """Return depth, primitive and all sorted hits per ray, in float64, triangle by triangle."""
    vertices, faces, owner, _ = layout.triangles()
    corners = (vertices[faces] - view.position) @ view.c2w[:3, :3]
    rows, columns = np.mgrid[: view.height, : view.width] + 0.5
    rays = np.stack(
        [(columns - view.cx) / view.fx, (rows - view.cy) / view.fy, np.ones_like(rows)], axis=-1
    ).reshape(-1, 3)
    a, b, c = corners.transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (a * normal).sum(axis=1) / (rays @ normal.T)
        inside = depth > 0
        for p, q in ((a, b), (b, c), (c, a)):
            side = rays @ np.cross(p, q).T
            inside &= (side * np.sign((a * normal).sum(axis=1))) > 0
    depth = np.where(inside, depth, np.inf)
    first = depth.argmin(axis=1)
    found = np.isfinite(depth.min(axis=1))
    shape = (view.height, view.width)
    hits = [[(z, owner[i]) for i, z in enumerate(row) if np.isfinite(z)] for row in depth]
    return (
        np.where(found, depth.min(axis=1), -1).reshape(shape),
        np.where(found, owner[first], -1).reshape(shape),
        hits,
    )


@pytest.mark.parametrize(("kind", "threads"), [("straight", 1), ("curved", 2), ("crossing", 1)])
def test_every_pixel_agrees_with_brute_force_and_embree(kind, threads: int) -> None:
    layout = generate_street(40, 4, kind)
    view = street_camera(layout.trajectory[8], 24)
    maps = RayScene(layout, threads).maps(view)
    depth, instance, hits = brute_force(layout, view)
    assert np.allclose(maps.depth, depth, rtol=1e-5)
    assert (maps.instance == instance).mean() > 0.999
    vertices, faces, owner, _ = layout.triangles()
    seen = raycast(Mesh(vertices, faces), view)
    assert np.allclose(np.where(np.isinf(seen.depth), -1, seen.depth), depth, rtol=1e-3)
    assert (np.where(seen.face_ids < 0, -1, owner[seen.face_ids]) == instance).mean() > 0.995
    assert maps.near is not None and maps.segments is not None
    for ray, found in enumerate(hits):
        merged = np.reshape(intervals(sorted(found))[:8], (-1, 2))
        ours = maps.segments.reshape(len(hits), -1, 2)[ray]
        assert np.allclose(ours[: len(merged)], merged, rtol=1e-5, atol=1e-5) or len(merged) == 8
        assert len(merged) == 0 or np.all(ours[len(merged) :, 1] == ours[len(merged) - 1, 1])


def intervals(hits: list) -> list[tuple[float, float]]:
    """Merge the spans between the odd and even hits of each primitive."""
    spans = []
    for p in {owner for _, owner in hits}:
        depths = [z for z, owner in hits if owner == p]
        depths = [0.0, *depths] if len(depths) % 2 else depths
        spans += list(zip(depths[::2], depths[1::2], strict=True))
    merged: list[tuple[float, float]] = []
    for enter, leave in sorted(spans):
        if merged and enter <= merged[-1][1] * (1 + 1e-6):
            merged[-1] = (merged[-1][0], max(merged[-1][1], leave))
        else:
            merged.append((enter, leave))
    return merged


def test_one_box_by_hand() -> None:
    maps = RayScene(ahead(box("a", "car", (0, 0, 5), (100, 100, 2))), 1).maps(camera())
    assert np.all(maps.depth == 4) and np.all(maps.label == 0) and np.all(maps.instance == 0)
    assert maps.near is not None and maps.far is not None and maps.segments is not None
    # 2 m thick: the published rule makes it 5
    assert np.all(maps.near == 4) and np.all(maps.far == 9)
    assert maps.segments.shape[2:] == (1, 2) and np.all(maps.segments == [4, 6])


def test_nothing_is_far_away() -> None:
    maps = RayScene(ahead(), 1).maps(camera())
    assert maps.near is not None and maps.segments is not None and maps.far is not None
    assert np.all(maps.depth == -1) and np.all(maps.label == -1) and np.all(maps.instance == -1)
    assert np.all(maps.near == 199.5) and np.all(maps.far == 200) and np.all(maps.segments == 0)
    assert np.all(condition_image(maps) == np.array([-1, -1, -1, 0])[:, None, None])


def test_a_camera_inside_sees_matter_from_the_start() -> None:
    maps = RayScene(ahead(box("a", "car", (0, 0, 0), (8, 8, 8))), 1).maps(camera())
    assert maps.segments is not None
    assert np.all(maps.segments[..., 0, 0] == 0) and np.all(maps.segments[..., 0, 1] == 4)


def test_overlapping_things_are_one_interval_and_the_rest_is_merged() -> None:
    boxes = [box(f"{i}", "car", (0, 0, z), (100, 100, 2)) for i, z in enumerate((4, 5, 10, 20, 30))]
    scene = RayScene(ahead(*boxes), 1)
    segments = scene.maps(camera()).segments
    assert segments is not None
    assert segments[0, 0].tolist() == [[3, 6], [9, 11], [19, 21], [29, 31]]
    fewer = scene.maps(camera(), max_segments=2).segments
    assert fewer is not None and fewer[0, 0].tolist() == [[3, 6], [9, 31]]


def test_coincident_surfaces_belong_to_the_first_primitive() -> None:
    twins = [box(name, name, (0, 0, 5), (100, 100, 2)) for name in ("car", "building")]
    for order in (twins, twins[::-1]):
        maps = RayScene(ahead(*order), 1).maps(camera())
        assert np.all(maps.instance == 0) and np.all(maps.label == order[0].class_id)


def test_far_counts_surfaces_once_or_as_the_release_does() -> None:
    boxes = [box(f"{i}", "car", (0, 0, 10.5 + 10 * (i // 2)), (100, 100, 1)) for i in range(12)]
    scene = RayScene(ahead(*boxes), 1)
    merged, released = scene.maps(camera()), scene.maps(camera(), compat=True)
    assert merged.far is not None and released.far is not None
    assert np.all(merged.far == 41) and np.all(released.far == 21)


def test_the_release_loses_triangles_that_reach_behind_the_camera() -> None:
    tree = box("a", "vegetation", (3, 0, 0), (2, 2, 20))
    road = box("b", "road", (-3, 0, 0), (2, 2, 20))
    scene = RayScene(ahead(tree, road), 1)
    here, lost = scene.maps(camera(32)).instance, scene.maps(camera(32), compat=True).instance
    assert {0, 1} <= set(here.ravel().tolist())
    assert (lost == 0).sum() < (here == 0).sum() and (lost == 1).sum() >= 0.9 * (here == 1).sum()


def test_open_meshes_have_a_thickness() -> None:
    sheet = np.array([[-50.0, -50, 5], [50, -50, 5], [50, 50, 5], [-50, 50, 5]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    assert not is_closed(sheet, faces)
    ball = ellipsoid("b", "vegetation", (0, 0, 0), (1, 1, 1))
    assert is_closed(ball.vertices[ball.faces].reshape(-1, 3), np.arange(240).reshape(-1, 3))
    part = Primitive("a", "building", "mesh", np.eye(4), sheet, faces)
    segments = RayScene(ahead(part), 1).maps(camera()).segments
    assert segments is not None and np.allclose(segments, [5, 5.5])


def test_shared_edges_are_hit_once() -> None:
    # the diagonal of the front and all axes pass exactly through pixel centres
    view = Camera(np.eye(4), 8.0, 8.0, 4.5, 4.5, 9, 9)
    maps = RayScene(ahead(box("a", "car", (0, 0, 5), (4, 4, 2))), 1).maps(view)
    assert maps.segments is not None
    assert maps.instance[4, 4] == 0 and maps.segments[4, 4, 0].tolist() == [4, 6]
    filled = maps.instance[2:7, 2:7]
    assert np.all(filled == 0)


def test_moving_world_and_camera_together_changes_nothing() -> None:
    layout = generate_street(40, 2)
    shift = np.eye(4)
    shift[:3, 3] = 100, -20, 1000
    moved = [
        Primitive(p.id, p.name, p.kind, shift @ p.transform, p.vertices, p.faces)
        for p in layout.primitives
    ]
    pose = layout.trajectory[5]
    a = RayScene(layout, 1).maps(street_camera(pose, 64))
    b = RayScene(ahead(*moved), 1).maps(street_camera(shift @ pose, 64))
    assert np.allclose(a.depth, b.depth, rtol=1e-5) and (a.label == b.label).mean() > 0.999


def test_published_camera_and_condition_image() -> None:
    assert intrinsics_kitti(128, 128)[:2] == (138.13856525, 138.13856525)
    assert intrinsics_kitti(128, 128)[2:] == pytest.approx((58.51236325, 76.69238725))
    maps = RayScene(ahead(box("a", "road", (0, 0, 25), (9, 9, 10))), 1).maps(camera(), False)
    assert maps.near is None and maps.segments is None
    image = condition_image(maps)
    assert image.shape == (4, 8, 8) and image.dtype == np.float32
    hit = maps.label == 5
    assert hit.any() and not hit.all()
    assert np.allclose(
        image[:, hit].T, [128 / 127.5 - 1, 64 / 127.5 - 1, 128 / 127.5 - 1, 0.1], atol=1e-6
    )
    assert np.all(semantic_colors(maps.label)[~hit] == 0)


def test_condition_image_is_resized_as_torch_does() -> None:
    import torch

    maps = RayScene(generate_street(40, 1), 1).maps(street_camera(np.eye(4), 16), False)
    small = condition_image(maps)
    reference = torch.nn.functional.interpolate(torch.tensor(small)[None], 64, mode="bilinear")[0]
    assert np.allclose(condition_image(maps, 64), reference.numpy(), atol=1e-6)
