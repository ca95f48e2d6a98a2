"""Scenes: gradients, seams, moving objects, editing, paging, saving."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from geo3d.errors import ConfigError, FileFormatError, InputError
from geo3d.layout.layout import Layout, Primitive, box, slab
from scenes.urban.conditions import LayoutMaps, RayScene, street_camera
from scenes.urban.config import FieldConfig, FieldsConfig
from scenes.urban.sampling import layout_rays
from scenes.urban.scene import Scene, needed_cells
from scenes.urban.scene_folder import load_scene, save_scene

TINY = FieldConfig(levels=3, finest=64, log2_rows=9, hidden=8, bottleneck=6)
CONFIG = FieldsConfig(cell=8.0, band=1.0, stuff=TINY, objects=TINY, samples=8, chunk=100)


def street(car_x: float = 1.5, *more: Primitive) -> Layout:
    rails = np.array([[-4.0, 1.5, 0.0], [-4.0, 1.5, 40.0]])
    road = slab("road", "road", rails, rails + np.array([8.0, 0, 0]))
    parts = (
        road,
        box("house", "building", (-8, -2, 20), (6, 8, 10)),
        box("car", "car", (car_x, 0.7, 14), (1.8, 1.6, 4.2)),
        *more,
    )
    return Layout("tiny", parts, np.eye(4)[None])


def look(layout: Layout, size: int = 16) -> tuple:
    camera = street_camera(np.eye(4), size)
    return camera, RayScene(layout, threads=1).maps(camera)


def steps(scene: Scene, count: int = 2) -> tuple[str, ...]:
    camera, maps = look(scene.layout)
    changed: tuple[str, ...] = ()
    for _ in range(count):
        seen = scene.render(camera, maps, train=True)
        (seen.rgb - 0.2).abs().mean().backward()
        changed = scene.step()
    return changed


def test_what_a_camera_sees() -> None:
    layout = street()
    camera, maps = look(layout)
    scene = Scene(CONFIG, layout)
    seen = scene.render(camera, maps)
    assert seen.image().shape == (16, 16, 3)
    hit = torch.from_numpy(maps.depth > 0).flatten()
    assert torch.equal(seen.sampled, hit)
    assert (seen.acc[hit] > 0.3).all() and not seen.acc[~hit].any()
    assert ((seen.rgb >= -0.002) & (seen.rgb <= 1.002)).all()
    # matter fills the layout from the first surface on
    error = seen.depth[hit] - torch.from_numpy(maps.depth).flatten()[hit]
    assert (error > -1e-3).all() and error.median() < 1.5
    assert seen.weights.shape == seen.middles.shape == (int(hit.sum()), 8)
    assert seen.s.shape == (int(hit.sum()), 9) and seen.classes.shape == (256, 0)


def test_chunks_and_gradients_change_no_number() -> None:
    layout = street()
    camera, maps = look(layout)
    scene = Scene(CONFIG, layout)
    whole = scene.render(camera, maps, train=True)
    parts = scene.render(camera, maps)
    torch.testing.assert_close(whole.rgb, parts.rgb)
    torch.testing.assert_close(whole.weights, parts.weights)
    first = scene.render(camera, maps, generator=torch.Generator().manual_seed(1))
    again = scene.render(camera, maps, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first.rgb, again.rgb) and not torch.equal(first.rgb, parts.rgb)


def test_first_parameters_depend_on_seed_and_name_alone() -> None:
    layout = street()
    one, other = Scene(CONFIG, layout), Scene(CONFIG, layout)
    names = list(one.block_names)
    assert names[:-2] == sorted(names[:-2], key=names.index) and names[-2:] == ["object-car", "sky"]
    for name in reversed(names):
        other.blocks.get(name)
    for name in names:
        pairs = zip(
            one.blocks.get(name).parameters(), other.blocks.get(name).parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)


def test_every_option_trains() -> None:
    layout = street()
    camera, maps = look(layout, 10)
    for change in (
        {"multisample": True},
        {"constrain": "hull"},
        {"constrain": "none", "falloff": None},
        {"semantics": 14},
        {"compat": True, "constrain": "hull", "multisample": True, "band": 0.0, "sky": "grid"},
    ):
        config = dataclasses.replace(CONFIG, **change)
        scene = Scene(config, layout)
        scene.learn(1e-2)
        generator = torch.Generator().manual_seed(0)
        losses = []
        for _ in range(3):
            seen = scene.render(camera, maps, train=True, generator=generator)
            loss = (seen.rgb - 0.2).square().mean() + seen.classes.square().sum()
            loss.backward()
            scene.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], change


def test_no_seam_between_cells() -> None:
    """Fields of random content, read along a line through a border, jump nowhere."""
    layout = street()
    jumps = {}
    for band in (0.0, 1.0):
        config = FieldsConfig(cell=8.0, band=band, stuff=TINY, objects=TINY, samples=8)
        scene = Scene(config, layout)
        for name in scene.block_names:
            for parameter in scene.blocks.get(name).parameters():
                generator = torch.Generator().manual_seed(len(name) + ord(name[-1]))
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        # cells meet at z = 4 + 8 k
        z = torch.linspace(17, 23, 6001)
        points = torch.stack([torch.zeros(6001), torch.full((6001,), 1.7), z], dim=1)
        density = scene.query(points).density.detach()
        step = density.diff().abs()
        at_border = ((z[1:] - 20).abs() < 0.52).nonzero()[:, 0]
        elsewhere = ((z[1:] - 18.5).abs() < 1).nonzero()[:, 0]
        jumps[band] = (step[at_border].max() / step[elsewhere].max()).item()
    assert jumps[0.0] > 5 and jumps[1.0] < 3


def test_moving_a_car_moves_its_field() -> None:
    scene = Scene(CONFIG, street())
    inside = torch.tensor([[1.5, 0.7, 14.0], [1.9, 0.9, 15.0]])
    before = scene.query(inside)
    scene.set_layout(street(car_x=-2.0))
    after = scene.query(inside - torch.tensor([3.5, 0, 0]))
    torch.testing.assert_close(after.rgb, before.rgb, atol=1e-5, rtol=0)
    assert not torch.allclose(scene.query(inside).rgb, before.rgb, atol=1e-4)


def test_overlapping_cars_share_equally() -> None:
    second = box("second", "car", (1.5, 0.7, 14), (1.8, 1.6, 4.2))
    both = Scene(CONFIG, street(1.5, second))
    alone = Scene(CONFIG, street(50.0, second))
    point = torch.tensor([[1.5, 0.7, 14.0]])
    first = Scene(CONFIG, street()).query(point)
    mean = (first.density + alone.query(point).density) / 2
    torch.testing.assert_close(both.query(point).density, mean)


def test_nothing_where_no_field_is() -> None:
    scene = Scene(CONFIG, street())
    assert scene.query(torch.tensor([[0.0, -60.0, 0.0]])).density.item() == 0
    assert scene.query(torch.zeros(0, 3)).rgb.shape == (0, 3)
    empty = Layout("nothing", (), np.eye(4)[None])
    camera, maps = look(empty)
    seen = Scene(CONFIG, empty).render(camera, maps)
    assert not seen.sampled.any() and not seen.depth.any() and seen.rgb.min() > 0


def test_editing_trains_only_what_was_touched(tmp_path: Path) -> None:
    layout = street()
    scene = Scene(CONFIG, layout, tmp_path / "work")
    scene.learn(1e-2)
    changed = steps(scene)
    assert "sky" in changed and "object-car" in changed and len(changed) > 4
    save_scene(scene, tmp_path / "before")
    touched = scene.blocks_in(layout.primitive("car").bounds()[None], ids=("car",))
    assert "object-car" in touched and "sky" not in touched
    scene.blocks.train_only(touched)
    assert set(steps(scene, 1)) <= set(touched)
    save_scene(scene, tmp_path / "after")
    for file in sorted((tmp_path / "before" / "blocks").iterdir()):
        same = file.read_bytes() == (tmp_path / "after" / "blocks" / file.name).read_bytes()
        name = file.name.removesuffix(".safetensors")
        assert same == (name not in touched), name


def test_paging_changes_no_pixel(tmp_path: Path) -> None:
    layout = street()
    camera, maps = look(layout)
    images = []
    for resident in (1, 50):
        scene = Scene(dataclasses.replace(CONFIG, resident=resident), layout, tmp_path / "x")
        scene.blocks.folder = tmp_path / str(resident)
        scene.learn(1e-2)
        steps(scene, 3)
        images.append(scene.render(camera, maps).rgb)
        assert len(scene.blocks.state_dict()) <= resident
    assert torch.equal(*images)


def test_saved_scenes_open_again_and_are_left_alone(tmp_path: Path) -> None:
    layout = street()
    scene = Scene(CONFIG, layout)
    scene.learn(1e-2)
    steps(scene)
    folder = save_scene(scene, tmp_path / "scene", moments=True)
    content = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    again = load_scene(folder)
    camera, maps = look(layout)
    assert torch.equal(again.render(camera, maps).rgb, scene.render(camera, maps).rgb)
    again.learn(1e-2)
    assert set(steps(again, 1)) == set(steps(scene, 1))
    assert torch.equal(again.render(camera, maps).rgb, scene.render(camera, maps).rgb)
    again.blocks.flush()
    assert content == {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_cells_follow_the_layout() -> None:
    long = np.stack([np.zeros(50), np.full(50, 1.5), np.arange(50) * 8.0], axis=1)
    road = slab("road", "road", long, long + np.array([4.0, 0, 0]))
    layout = Layout("road", (road,), np.eye(4)[None])
    few = needed_cells(layout, CONFIG)
    assert 50 <= len(few) <= 2 * 50 and few == tuple(sorted(few))
    free = FieldsConfig(cell=8.0, band=1.0, constrain="none")
    assert set(few) <= set(needed_cells(layout, free))


def test_rays_without_what_they_need() -> None:
    layout = street()
    camera, maps = look(layout)
    bare = LayoutMaps(maps.depth, maps.label, maps.instance)
    for none in (None, bare):
        with pytest.raises(InputError, match="no_segments"):
            layout_rays(camera, none, CONFIG)
    with pytest.raises(InputError, match="map_size"):
        layout_rays(street_camera(np.eye(4), 8), maps, CONFIG)


def test_bad_settings_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples"):
        FieldsConfig(samples=1)
    with pytest.raises(ConfigError, match="tcnn"):
        FieldsConfig(backend="tinycudann")
    with pytest.raises(InputError, match=r"scene\.missing"):
        load_scene(tmp_path)
    (tmp_path / "scene.json").write_text('{"format": "other"}')
    with pytest.raises(FileFormatError, match="not_a_scene"):
        load_scene(tmp_path)


def test_fields_lie_and_answer_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of torch's device "meta" have no numbers, but refuse to meet those of the
    processor: what is left out on the way there raises."""
    answers: list[torch.Tensor] = []

    def home(tensor: torch.Tensor) -> torch.Tensor:
        answers.append(tensor)
        return torch.zeros(tensor.shape)

    monkeypatch.setattr("scenes.urban.scene.home", home)
    layout = street()
    camera, maps = look(layout, 6)
    config = dataclasses.replace(CONFIG, multisample=True, samples=4)
    scene = Scene(config, layout, device="meta")
    assert scene.backend == "torch"
    scene.render(camera, maps, train=True)
    assert len(answers) > 3 and {answer.device.type for answer in answers} == {"meta"}
    assert any(answer.requires_grad for answer in answers)
    parameters = [p for name in scene.block_names for p in scene.blocks.get(name).parameters()]
    assert {p.device.type for p in parameters} == {"meta"}
