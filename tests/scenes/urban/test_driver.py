from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import urban_teachers

from apps.bench import seams
from apps.bench.seams import measure_seams
from geo3d.config import dump_config, load_config
from geo3d.errors import Cancelled, ConfigError, InputError, NumericalError
from geo3d.fields.blocks import Blocks
from geo3d.layout.layout import Layout, Region, box, piece, slab
from geo3d.mesh.io import load_mesh
from scenes.urban import export
from scenes.urban.adherence import kernel_distance
from scenes.urban.conditions import RayScene
from scenes.urban.config import PRESETS, SceneConfig
from scenes.urban.constraints import ConstraintConfig
from scenes.urban.driver import Builder, BuiltScene, build_scene, load_built, with_classes
from scenes.urban.guidance import Guidance
from scenes.urban.optimise import distil_window
from scenes.urban.sample_then_fit import make_window
from scenes.urban.scene import Rendering, Scene
from scenes.urban.views import (
    View,
    held_out_poses,
    look,
    prompts_of,
    render_frames,
    stations,
    training_poses,
)


@pytest.fixture(scope="module")
def teacher() -> Guidance:
    return Guidance(urban_teachers.parts())


def street(length: float = 24.0) -> Layout:
    def rail(x: float) -> np.ndarray:
        return np.array([[x, 0.0, z] for z in (-4.0, length + 12.0)])

    drive = np.tile(np.eye(4), (int(length) + 1, 1, 1))
    drive[:, 1, 3], drive[:, 2, 3] = -1.55, np.arange(len(drive))
    things = (
        slab("road", "road", rail(-4.0), rail(4.0)),
        box("house", "building", (8.0, -3.0, 14.0), (5.0, 6.0, 8.0)),
        box("car", "car", (2.5, -0.8, 12.0), (1.8, 1.6, 4.2)),
    )
    return Layout("short", things, drive, "night")


def settings(**changes: Any) -> SceneConfig:
    config = load_config(SceneConfig, None, "smoke", ["views.spacing=6", "views.window=3"])
    small = replace(config.fields.stuff, levels=3, finest=32, log2_rows=8)
    fields = replace(config.fields, stuff=small, objects=small, samples=4, far=60.0)
    outputs = replace(config.outputs, frames=2, frame_size=12, voxel=1.0, reach=8.0)
    return with_classes(replace(config, fields=fields, outputs=outputs, **changes))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_settings_and_survive_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(SceneConfig, None, name)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(SceneConfig, tmp_path / "config.yaml") == config
    with pytest.raises(ConfigError, match=r"config.bad_value"):
        load_config(SceneConfig, None, name, ["views.spacing=0"])


def test_cameras_follow_the_drive_and_held_out_ones_lie_between() -> None:
    layout, config = street(), settings().views
    poses = training_poses(layout, config)
    assert poses[0, 2, 3] == 0 and poses[-1, 2, 3] == 24
    assert np.diff(poses[:, 2, 3]).max() <= 6
    assert len(stations(layout, 1000.0)) == 2
    held_out = held_out_poses(layout, config, 3)
    assert not set(held_out[:, 2, 3]) & set(poses[:, 2, 3])


def test_a_scene_is_built_with_everything_made_of_it(tmp_path: Path, teacher: Guidance) -> None:
    built = build_scene(street(), settings(), tmp_path, guidance=teacher)
    outputs = tmp_path / "outputs"
    assert len(list((outputs / "frames").glob("*.png"))) == 2
    assert (outputs / "drive.gif").read_bytes()[:3] == b"GIF"
    assert not (tmp_path / "work").exists()
    mesh = load_mesh(outputs / "mesh.glb")
    assert mesh.n_faces and mesh.vertex_colors is not None
    # the road's upper side: y is up in files
    assert abs(np.median(mesh.vertices[mesh.vertices[:, 1] > -0.3][:, 1])) < 6.5
    cloud = load_mesh(outputs / "points.ply")
    assert cloud.is_point_cloud and cloud.n_vertices == built.metrics["points"]
    header, _, body = (outputs / "gaussians.ply").read_bytes().partition(b"end_header\n")
    assert b"f_dc_0" in header and len(body) == 17 * 4 * cloud.n_vertices
    for name in ("depth_error_m", "consistency", "feature_distance", "see_through"):
        assert np.isfinite(built.metrics[name])
    same = load_built(tmp_path)
    view = look(RayScene(same.layout), same.layout.trajectory[3], 8)
    a, b = (scene.render(view.camera, view.maps).rgb for scene in (built.scene, same.scene))
    assert torch.equal(a, b)
    assert set(measure_seams(same.scene, same.layout.trajectory[:2], 8)) >= {"colour_ratio"}


def resumable(method: str) -> SceneConfig:
    config = settings(method=method, checkpoint_seconds=0.0)
    return replace(
        config,
        fit=replace(config.fit, rounds=2),
        optimise=replace(config.optimise, steps_per_view=2, layout_steps=1, fit_rounds=1),
    )


@pytest.fixture(scope="module")
def whole(
    teacher: Guidance, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, BuiltScene]]:
    """Return what gives the folder and the scene of a build of a method that was never stopped."""

    @functools.cache
    def build(method: str) -> tuple[Path, BuiltScene]:
        folder = tmp_path_factory.mktemp(method)
        return folder, build_scene(street(), resumable(method), folder, guidance=teacher)

    return build


@pytest.mark.parametrize(
    ("method", "stage", "step"),
    [
        ("sample_then_fit", "windows of the street", None),
        ("sample_then_fit", "fitting the scene", 3),
        ("lgvsd", "windows of the street", None),
        ("lgvsd", "distilling the teacher", 2),
        ("lgvsd", "fitting the scene", 2),
    ],
)
def test_a_stopped_build_goes_on_to_the_same_scene(
    method: str,
    stage: str,
    step: int | None,
    whole: Callable[[str], tuple[Path, BuiltScene]],
    tmp_path: Path,
    teacher: Guidance,
) -> None:
    folder, built = whole(method)
    config = resumable(method)
    seen = {"windows": 0}

    def stop(event: Mapping[str, Any]) -> None:
        if step is None and event["stage"] == stage:
            raise Cancelled
        seen["windows"] += event["stage"] == "windows of the street"
        # in the second window, where nothing was saved between windows for a while
        if seen["windows"] == 1 and event["stage"] == stage and event["step"] == step:
            raise Cancelled

    with pytest.raises(Cancelled):
        build_scene(street(), config, tmp_path, stop, guidance=teacher)
    state = json.loads((tmp_path / "work/state.json").read_text())
    assert state["done"] == 1 and (step is None or state["within"]["step"] == step)
    asked = {"steps": 0}

    def count(event: Mapping[str, Any]) -> None:
        asked["steps"] += event["stage"] == stage

    again = build_scene(street(), config, tmp_path, count, resume=True, guidance=teacher)
    assert asked["steps"] > 0
    blocks = {p.name: p.read_bytes() for p in (folder / "outputs/scene/blocks").iterdir()}
    assert blocks
    for name, data in blocks.items():
        assert (tmp_path / "outputs/scene/blocks" / name).read_bytes() == data, name
    assert again.metrics["divergences"] == built.metrics["divergences"]


@pytest.mark.parametrize("method", ["sds", "vsd"])
def test_distillation_changes_the_scene(method: str, tmp_path: Path, teacher: Guidance) -> None:
    config = settings(method=method)
    builder = Builder(street(), config, tmp_path, teacher, lambda _: None)
    builder.open(resume=False)
    view = look(RayScene(builder.layout), builder.layout.trajectory[3], 8)
    before = builder.scene.render(view.camera, view.maps).rgb
    builder.build()
    assert (builder.scene.render(view.camera, view.maps).rgb - before).abs().max() > 1e-4
    assert builder.costs()["divergences"] == []


def test_constraint_losses_are_minimised_without_the_teacher(
    tmp_path: Path, teacher: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(settings().optimise, steps_per_view=0, layout_steps=20)
    config = settings(method="sds", optimise=asked)
    builder = Builder(street(), config, tmp_path, teacher, lambda _: None)
    builder.open(resume=False)
    window = make_window(builder.scene, teacher, config, builder.windows[0], 0)
    monkeypatch.setattr(teacher, "output", None)

    def passes() -> float:
        seen = builder.scene.render(window.bundle.rays)
        return float((1 - seen.acc)[window.bundle.layout.depth > 0].mean())

    before = passes()
    free = replace(config, constraints=ConstraintConfig(0, 0, 0))
    distil_window(builder.scene, teacher, None, window, free)
    assert passes() == before
    distil_window(builder.scene, teacher, None, window, config)
    assert passes() < 0.7 * before


@pytest.mark.parametrize(("step", "low", "high"), [(0.0, 0.8, 1.3), (0.5, 5.0, 1e9)])
def test_a_step_at_borders_is_a_seam_and_a_slope_is_none(
    step: float, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(settings().fields, cell=8.0, band=1.0)
    scene = Scene(config, street())

    def frames(*args: Any) -> Iterator[tuple[View, Rendering]]:
        generator = torch.Generator().manual_seed(0)
        for view, seen in render_frames(*args):
            origins, rays = view.camera.rays()
            scale = view.maps.depth.ravel() / (rays @ view.camera.c2w[:3, 2])
            z = torch.from_numpy(origins + rays * scale[:, None]).float()[:, 2]
            colour = 0.01 * z + step * torch.round(z / 8)
            noise = 0.01 * torch.rand(len(z), 3, generator=generator)
            depth = torch.from_numpy(view.maps.depth).float().ravel()
            rgb = colour[:, None] + noise
            yield view, replace(seen, rgb=rgb, depth=depth, acc=torch.ones(len(z)))

    monkeypatch.setattr(seams, "render_frames", frames)
    found = measure_seams(scene, scene.layout.trajectory[::4], 48)
    assert found["pairs_at_borders"] > 50
    assert low < found["colour_ratio"] < high
    assert found["depth_at_borders"] == pytest.approx(0, abs=1e-5)


def test_distillation_goes_back_when_it_breaks(
    tmp_path: Path, teacher: Guidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(method="sds")
    builder = Builder(street(), config, tmp_path, teacher, lambda _: None)
    builder.open(resume=False)
    window = make_window(builder.scene, teacher, config, builder.windows[0], 0)
    steps: list[int] = []
    real = teacher.output

    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        steps.append(1)
        made = real(*args, **kwargs)
        return made * float("nan") if len(steps) == 2 else made

    monkeypatch.setattr(teacher, "output", broken)
    found = distil_window(builder.scene, teacher, None, window, config)
    assert [one["code"] for one in found] == ["distill.not_finite"]
    monkeypatch.setattr(teacher, "output", lambda *a, **k: real(*a, **k) * float("nan"))
    with pytest.raises(NumericalError, match=r"rollback.gave_up"):
        distil_window(builder.scene, teacher, None, window, config)


def test_blocks_go_back_to_a_state(tmp_path: Path) -> None:
    blocks = Blocks(lambda _: torch.nn.Linear(2, 1), tmp_path)
    blocks.learn(0.1)

    def train(name: str) -> None:
        blocks.get(name, train=True)(torch.ones(1, 2)).sum().backward()
        blocks.step()

    train("a")
    state = {n: {k: v.clone() for k, v in t.items()} for n, t in blocks.state_dict().items()}
    train("a")
    train("b")
    after = blocks.get("a").weight.clone()  # type: ignore[union-attr]
    blocks.load_state_dict(state)
    assert list(blocks.state_dict()) == ["a"]
    assert torch.equal(blocks.get("a").weight, state["a"]["weight"])  # type: ignore[arg-type]
    train("a")
    assert torch.equal(blocks.get("a").weight, after)  # type: ignore[arg-type]


def test_a_column_through_a_box_is_as_long_as_the_box() -> None:
    rays = RayScene(
        Layout("box", (box("b", "building", (8.0, -3, 8), (6.0, 6, 4)),), np.eye(4)[None])
    )
    found = export._columns(rays, (0.0, 0.0), 17, 1.0, 0.0)
    filled = found[..., 0, 1] > found[..., 0, 0]
    assert filled[8, 8] and not filled[8, 11] and not filled[12, 8] and filled[10, 9]
    np.testing.assert_allclose(found[8, 8, 0], [-6, 0], atol=0.02)


def test_kernel_distance_of_equal_sets_is_zero() -> None:
    a = torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)))
    assert kernel_distance(a, a) == pytest.approx(0, abs=1e-2)
    assert kernel_distance(a, -a) > 1


def test_a_piece_keeps_what_stands_near() -> None:
    layout = street(40.0)
    part = piece(layout, 10.0, 2.0, reach=3.0)
    assert part.trajectory[0, 2, 3] == 2 and part.trajectory[-1, 2, 3] == 12
    assert [p.id for p in part.primitives] == ["road", "car"]
    for length, start in ((10.0, 200.0), (0.0, 0.0), (-1.0, 2.0)):
        with pytest.raises(InputError, match=r"layout.no_piece"):
            piece(layout, length, start)


def test_regions_keep_their_prompts_beside_one_for_all(teacher: Guidance) -> None:
    layout = street()
    layout = replace(layout, regions=(Region((-50.0, 50.0, 20.0, 30.0), "snow"),))
    rays = RayScene(layout)
    # a prompt is looked up 15 m ahead: from z = 0 and 10
    views = [look(rays, layout.trajectory[z], 8) for z in (0, 10)]

    def said(prompt: str, layout: Layout) -> list[torch.Tensor]:
        return list(prompts_of(teacher, layout, SceneConfig(prompt=prompt), views).tokens)

    night, snow, null = (teacher.tokens(word)[0] for word in ("night", "snow", ""))
    for prompt, wanted in (("night", [night, snow]), ("", [night, snow]), ("snow", [snow, snow])):
        for found, token in zip(said(prompt, layout), wanted, strict=True):
            assert torch.equal(found, token)
    odd = replace(layout, prompt="a street", regions=(Region((-50, 50, 20, 30), "a field"),))
    assert all(torch.equal(found, night) for found in said("night", odd))
    assert all(torch.equal(found, null) for found in said("", odd))
