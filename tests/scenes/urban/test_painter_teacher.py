"""The painter as a teacher: scenes are fitted to it, views agree, styles are obeyed and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geo3d.config import load_config
from geo3d.errors import ConfigError
from geo3d.layout.layout import Layout, box
from scenes.urban.conditions import RayScene, street_camera
from scenes.urban.config import SceneConfig, ViewConfig
from scenes.urban.driver import _windows, build_scene, with_classes
from scenes.urban.sample_then_fit import FitSettings, fit_images, make_window
from scenes.urban.scene import Scene
from scenes.urban.surface_fit import surface_losses
from scenes.urban.teachers.choice import check_words, open_teacher, teacher_folder
from scenes.urban.teachers.painter import Painter, named_in, style_of, warn_of_styles


def street(style: str = "") -> Layout:
    """Return 20 m of road between two houses and a car."""
    things = (
        box("road", "road", (0, 0.8, 10), (12, 1.0, 40)),
        box("left", "building", (-9, -2.7, 12), (6, 6, 10), style=style),
        box("right", "building", (9, -2.7, 12), (6, 6, 10)),
        box("car", "car", (2.2, -0.45, 12), (1.8, 1.5, 4.4), style="red"),
    )
    drive = np.tile(np.eye(4), (9, 1, 1))
    drive[:, 1, 3], drive[:, 2, 3] = -1.2, np.arange(9.0) - 6
    return Layout("short", things, drive, "night")


def settings(*changes: str) -> SceneConfig:
    small = (
        "views.spacing=4", "views.size=24", "fields.stuff.log2_rows=11", "fields.far=50",
        "fit.surface=512", "outputs.voxel=0", "outputs.points=0", "outputs.antialias=2",
    )  # fmt: skip
    return with_classes(load_config(SceneConfig, None, "smoke", (*small, *changes)))


QUICK = ("outputs.measured=1", "outputs.frames=1", "fit.surface=1024")


def test_who_draws_is_chosen_by_name_and_method() -> None:
    assert isinstance(open_teacher(settings("seed=3")), Painter)
    assert open_teacher(settings("seed=3", "teacher=painter")) == Painter(3)
    assert Path(str(teacher_folder(settings("teacher=learned")))).name == "teacher"
    assert teacher_folder(settings("method=lgvsd")) == teacher_folder(settings("teacher=learned"))
    assert teacher_folder(settings("teacher=some/folder")) == "some/folder"
    with pytest.raises(ConfigError) as caught:
        open_teacher(settings("teacher=painter", "method=sds"))
    assert caught.value.code == "teacher.no_score"


def test_prompts_name_styles_or_are_refused() -> None:
    assert named_in("a snowy street at night") == ("night", "snow")
    assert style_of("", street()) == ("night",) and style_of("foggy", street()) == ("fog",)
    assert style_of("", replace(street(), prompt="a road")) == ("sunny",)
    for prompt, code in (("baroque", "styles.unknown"), ("sunny night", "street_images.unknown")):
        with pytest.raises(ConfigError) as caught:
            style_of(prompt, street())
        assert caught.value.code.startswith(code)


def test_styles_of_things_that_are_ignored_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Words nobody knows, and all that networks are not told of (case `style-ignored`)."""
    assert warn_of_styles(street("baroque")) == ("baroque",)
    assert "baroque" in caplog.text
    assert warn_of_styles(street("red brick")) == ()
    caplog.clear()
    assert warn_of_styles(street("red brick"), is_painter=False) == ("red", "red brick")
    assert "red brick" in caplog.text and "--restyle" in caplog.text
    caplog.clear()
    assert warn_of_styles(replace(street(), primitives=()), is_painter=False) == ()
    assert not caplog.text


def test_a_style_changes_the_look_of_its_thing() -> None:
    """Of that thing alone, as soon as it is built (case `style-ignored`)."""
    camera, painter = street_camera(street().trajectory[0], 32), Painter(1)
    plain, brick, again = (
        painter.paint(street(style), [camera], "sunny", 60.0).images[0]
        for style in ("", "red brick", "")
    )
    assert torch.equal(plain, again)
    changed = (plain - brick).abs().amax(dim=0) > 0.05
    assert changed[:, :16].any() and not changed[:, 16:].any()


def test_images_do_not_depend_on_who_else_is_looked_at() -> None:
    layout, painter = street(), Painter(1)
    cameras = [street_camera(pose, 16) for pose in layout.trajectory[[0, 4]]]
    both = painter.paint(layout, cameras, "sunny", 60.0)
    alone = painter.paint(layout, cameras[1:], "sunny", 60.0)
    assert torch.equal(both.images[1], alone.images[0])
    far = RayScene(layout).maps(cameras[0], False).depth
    seen = far > 0
    assert (both.depth[0].numpy()[seen] > far[seen] - 0.02)[both.depth[0].numpy()[seen] > 0].all()


def test_a_fitted_scene_comes_near_its_images(tmp_path: Path) -> None:
    config = settings("prompt=sunny")
    layout = street()
    scene = Scene(config.fields, layout, tmp_path / "blocks")
    window = make_window(scene, Painter(), config, layout.trajectory[[0, 4]], 0)
    assert window.painted is not None and window.known is None
    colours = window.painted.permute(0, 2, 3, 1).reshape(-1, 3)
    fit = FitSettings(30, 256, 0.02, 0.0, 0, "test", surface=1024, final_rate=0.1)
    error = fit_images(scene, window.bundle, colours, config.constraints, fit)
    assert error < 0.06
    generator = torch.Generator().manual_seed(0)
    losses = surface_losses(scene, window.bundle, colours, 500, generator)
    assert set(losses) >= {"surface colour", "surface density"}
    assert float(losses["surface colour"].detach()) < 0.06


def test_the_rate_falls_over_the_second_half() -> None:
    fit = FitSettings(10, 1, 0.01, 0.0, 0, "rate", final_rate=0.1)
    rates = [fit.rate_at(share) for share in (0.0, 0.5, 0.75, 1.0)]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.01 * 0.1**0.5, 0.001])


def test_windows_see_the_end_of_the_one_before() -> None:
    poses = np.arange(10.0)[:, None, None] * np.ones((1, 4, 4))
    found = [part[:, 0, 0].tolist() for part in _windows(poses, ViewConfig(window=5, overlap=2))]
    assert found == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7, 8, 9]]
    assert [len(part) for part in _windows(poses, ViewConfig(window=4))] == [4, 3, 3]


@pytest.mark.slow
def test_a_scene_is_built_and_measured_against_the_painter(tmp_path: Path) -> None:
    config = settings("prompt=sunny", "fit.steps_per_view=40", "fit.learning_rate=0.02", *QUICK)
    built = build_scene(street(), config, tmp_path)
    assert built.metrics["psnr_to_teacher"] > 15
    assert "feature_distance" not in built.metrics
    again = build_scene(street("blue"), config, tmp_path / "blue")
    camera = street_camera(street().trajectory[2], 24)
    images = []
    for one in (built, again):
        view = RayScene(one.layout).maps(camera)
        images.append(one.scene.render(camera, view).image())
    where = RayScene(street()).maps(camera, False).instance
    other = (images[1] - images[0]).abs().mean(dim=2).numpy()
    assert other[where == 1].mean() > 1.5 * other[where == 2].mean()


def test_words_that_ask_for_nothing_are_refused_before_an_edit() -> None:
    check_words(settings(), ["red brick", "snowy", ""])
    with pytest.raises(ConfigError) as caught:
        check_words(settings(), ["baroque"])
    assert caught.value.code == "styles.unknown"
