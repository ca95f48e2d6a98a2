"""Edits of finished scenes: what is trained again, and that the rest stays bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import urban_teachers

from geo3d.layout.layout import Layout, box, slab, turn
from scenes.urban.conditions import RayScene, street_camera
from scenes.urban.config import FieldConfig, FieldsConfig, FitConfig, SceneConfig, ViewConfig
from scenes.urban.constraints import ConstraintConfig
from scenes.urban.edit_scene import edit_scene, open_blocks, rays_through, same_blocks
from scenes.urban.edits import add, duplicate, move, remove, restyle
from scenes.urban.guidance import Guidance, SampleConfig
from scenes.urban.sampling import layout_rays
from scenes.urban.scene import Scene
from scenes.urban.scene_folder import load_scene, save_scene

TINY = FieldConfig(levels=3, finest=64, log2_rows=9, hidden=8, bottleneck=6)
FIELDS = FieldsConfig(cell=8.0, band=1.0, stuff=TINY, objects=TINY, samples=8, chunk=4096)
CONFIG = SceneConfig(
    prompt="night",
    fields=FIELDS,
    views=ViewConfig(spacing=20.0, turns_deg=(0.0,), size=12, window=2),
    sampling=SampleConfig(steps=1),
    constraints=ConstraintConfig(semantics=0),
    fit=FitConfig(steps_per_view=2, rays=128, rounds=1),
)


def street() -> Layout:
    rails = np.array([[-4.0, 1.5, -6.0], [-4.0, 1.5, 40.0]])
    road = slab("road", "road", rails, rails + np.array([8.0, 0, 0]))
    parts = (
        road,
        box("house", "building", (-8, -2, 20), (6, 8, 10)),
        box("car", "car", (1.5, 0.7, 14), (1.8, 1.6, 4.2), style="silver"),
        box("truck", "truck", (-2.0, 0.2, 30), (2.2, 2.6, 6.0)),
    )
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 2, 3] = (-3, -1, 1)
    return Layout("tiny", parts, poses)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene in which every visible block has been trained."""
    scene = Scene(FIELDS, street())
    scene.learn(1e-2)
    camera = street_camera(np.eye(4), 16)
    maps = RayScene(scene.layout, threads=1).maps(camera)
    for _ in range(2):
        (scene.render(camera, maps, train=True).rgb - 0.2).abs().mean().backward()
        scene.step()
    return save_scene(scene, tmp_path_factory.mktemp("trained") / "scene")


@pytest.fixture(scope="module")
def teacher() -> Guidance:
    return Guidance(urban_teachers.parts())


def names(files: tuple[str, ...]) -> set[str]:
    return {file.removesuffix(".safetensors") for file in files}


def test_moving_a_car_trains_only_the_cells_it_leaves(
    trained: Path, teacher: Guidance, tmp_path: Path
) -> None:
    scene = load_scene(trained, tmp_path / "work")
    edited = edit_scene(scene, move(scene.layout, "car", (0, 0, 9)), teacher, CONFIG)
    assert edited.views == 2 and edited.blocks
    assert all(name.startswith("cell-") for name in edited.blocks)
    same, other = same_blocks(trained, save_scene(scene, tmp_path / "after"))
    assert other and names(other) <= set(edited.blocks)
    assert {"object-car", "object-truck", "sky"} <= names(same)
    assert len(names(same) - {"object-car", "object-truck", "sky"}) >= 2

    # the car looks as before, 9 m further on
    before = load_scene(trained)
    points = torch.tensor([[1.5, 0.7, 14.0], [1.0, 0.3, 13.0]])
    there = points + torch.tensor([0.0, 0.0, 9.0])
    moved, stood = scene.query(there).rgb, before.query(points).rgb
    torch.testing.assert_close(moved, stood, atol=1e-4, rtol=0)
    assert not torch.equal(*images(before, scene, 0.0))
    # a camera that looks back sees no open cell: not a bit is different
    assert torch.equal(*images(before, scene, np.pi))


def images(before: Scene, after: Scene, yaw: float) -> tuple[torch.Tensor, torch.Tensor]:
    pose = np.eye(4)
    pose[:3, :3] = turn(yaw)
    camera = street_camera(pose, 16)
    one, two = (
        scene.render(camera, RayScene(scene.layout, threads=1).maps(camera)).rgb
        for scene in (before, after)
    )
    return one, two


def test_taking_the_edit_back_restores_the_car(
    trained: Path, teacher: Guidance, tmp_path: Path
) -> None:
    scene = load_scene(trained, tmp_path / "work")
    layout = scene.layout
    gone = edit_scene(scene, remove(layout, "truck"), teacher, CONFIG)
    assert "object-truck" not in scene.block_names and gone.views
    back = replace(remove(layout, "truck"), layout=layout)
    again = edit_scene(scene, back, teacher, CONFIG)
    assert "object-truck" in again.blocks


def test_which_blocks_an_edit_opens() -> None:
    layout = street()

    def opened(edit: object) -> set[str]:
        scene = Scene(FIELDS, layout)
        scene.set_layout(edit.layout)  # type: ignore[attr-defined]
        return set(open_blocks(scene, layout, edit))  # type: ignore[arg-type]

    assert opened(restyle(layout, "car", "snow")) == {"object-car"}
    assert opened(duplicate(layout, "car", (0, 0, 8), "second")) == {"object-second"}
    assert opened(add(layout, box("hut", "garage", (5, 0, 8), (2, 3, 2))))
    assert not any("object" in n for n in opened(restyle(layout, "house", "snow")))
    assert opened(move(layout, "car", (0, 0, 8))) == opened(remove(layout, "car"))


def test_a_restyled_car_hears_its_own_words(
    trained: Path, teacher: Guidance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    tokens = teacher.tokens

    def listen(texts: str | list[str]) -> torch.Tensor:
        asked.extend([texts] if isinstance(texts, str) else texts)
        return tokens(texts)

    monkeypatch.setattr(teacher, "tokens", listen)
    scene = load_scene(trained, tmp_path / "work")
    edited = edit_scene(scene, restyle(scene.layout, "car", "snow"), teacher, CONFIG)
    assert edited.blocks == ("object-car",) and "snow" in asked
    _, other = same_blocks(trained, save_scene(scene, tmp_path / "after"))
    assert names(other) == {"object-car"}


def test_an_edit_nobody_sees_trains_nothing(
    trained: Path, teacher: Guidance, tmp_path: Path
) -> None:
    scene = load_scene(trained, tmp_path / "work")
    far = add(scene.layout, box("far", "building", (0, 0, -400), (4, 4, 4)))
    edited = edit_scene(scene, far, teacher, CONFIG)
    assert edited.views == 0 and not same_blocks(trained, save_scene(scene, tmp_path / "x"))[1]


def test_rays_through_boxes() -> None:
    layout = street()
    camera = street_camera(np.eye(4), 16)
    rays = layout_rays(camera, RayScene(layout, threads=1).maps(camera), FIELDS)
    car = torch.from_numpy(layout.primitive("car").bounds()[None]).float()
    seen = RayScene(layout, threads=1).maps(camera).instance.ravel() == layout.index("car")
    through = rays_through(rays, car)
    assert through[torch.from_numpy(seen)].all() and not through.all()
    assert not rays_through(rays, car + torch.tensor([0.0, -60.0, 0.0])).any()
