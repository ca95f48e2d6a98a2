"""From photographs to objects on black."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geo3d.errors import FileFormatError, Geo3dError, InputError, LimitError
from scenes.objects import cutout
from scenes.objects.cutout import (
    grab_cut,
    has_plain_border,
    remove_background,
    remove_plain_background,
    tells_object,
)
from scenes.objects.image import prepare_image
from scenes.objects.image_files import read_image


def painted(size: tuple[int, int], box: tuple[int, int, int, int], alpha: int = 0) -> Image.Image:
    """Return a red box on a grey ground of the given opacity."""
    image = Image.new("RGBA", size, (90, 90, 90, alpha))
    image.paste((200, 0, 0, 255), box)
    return image


def test_the_object_fills_the_square_but_for_a_margin() -> None:
    found = np.asarray(prepare_image(painted((100, 60), (10, 20, 71, 51)), size=72))
    assert found.shape == (72, 72, 3)
    red = found[:, :, 0] > 100
    rows, columns = np.nonzero(red)
    # 60 of 72 columns and 30 of 72 rows, in the middle.
    assert columns.max() - columns.min() == pytest.approx(60, abs=1)
    assert rows.max() - rows.min() == pytest.approx(30, abs=1)
    assert columns.mean() == pytest.approx(35.5, abs=1) and rows.mean() == pytest.approx(
        35.5, abs=1
    )
    assert (found[:4] == 0).all()


def test_what_is_half_transparent_gets_darker() -> None:
    image = painted((40, 40), (10, 10, 30, 30))
    pixels = np.asarray(image).copy()
    pixels[14:26, 14:26, 3] = 128
    found = np.asarray(prepare_image(Image.fromarray(pixels), size=24))
    assert found[12, 12].tolist() == pytest.approx([100, 0, 0], abs=2)


def test_a_plain_background_is_removed() -> None:
    opaque = painted((60, 60), (20, 20, 40, 40), alpha=255).convert("RGB")
    assert not tells_object(opaque)
    alpha = np.asarray(remove_plain_background(opaque))[:, :, 3]
    assert alpha[30, 30] == 255 and alpha[0, 0] == 0 and (alpha > 0).sum() == 400
    found = np.asarray(prepare_image(opaque, size=48))
    assert found[24, 24, 0] > 150 and found[0, 0].sum() == 0


def test_a_hole_of_the_background_colour_stays_part_of_the_object() -> None:
    image = painted((60, 60), (10, 10, 50, 50), alpha=255)
    image.paste((90, 90, 90, 255), (25, 25, 35, 35))
    alpha = np.asarray(remove_plain_background(image.convert("RGB")))[:, :, 3]
    assert alpha[30, 30] == 255 and alpha[5, 5] == 0


def test_large_images_are_reduced_before_their_background_goes() -> None:
    seen = []

    def remover(rgb: Image.Image) -> Image.Image:
        seen.append(rgb.size)
        return remove_plain_background(rgb)

    prepare_image(painted((2048, 1024), (900, 400, 1100, 600), alpha=255), remover, size=16)
    assert seen == [(1024, 512)]


def photograph(seed: int = 0, size: int = 120) -> tuple[Image.Image, np.ndarray]:
    """Return a red ball before a wall of many greens and blues, and where the ball is."""
    draw = np.random.default_rng(seed)
    tiles = draw.integers(40, 200, (40, 40, 3)) * np.array([0.2, 1.0, 1.0])
    pixels = np.kron(tiles, np.ones((size // 40, size // 40, 1)))
    pixels += draw.normal(0, 6, pixels.shape)
    y, x = np.mgrid[:size, :size]
    ball = (x - 0.52 * size) ** 2 + (y - 0.48 * size) ** 2 < (0.27 * size) ** 2
    pixels[ball] = draw.normal((200, 40, 30), 12, (int(ball.sum()), 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), ball


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_object_is_cut_out_of_a_photograph(seed: int) -> None:
    image, ball = photograph(seed)
    assert not has_plain_border(image)
    found = np.asarray(remove_background(image))
    assert overlap(found[:, :, 3] > 0, ball) > 0.9
    assert (grab_cut(image) == grab_cut(image)).all()
    ready = np.asarray(prepare_image(image, size=48))
    assert ready[24, 24, 0] > 150 and ready[:3, :3].max() == 0


def test_a_large_photograph_is_cut_in_its_own_size() -> None:
    image, ball = photograph(size=600)
    assert overlap(grab_cut(image), ball) > 0.9


def test_without_opencv_a_photograph_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = cutout.backends.Availability(False, "", "it is not installed", "pip install it")
    monkeypatch.setattr(cutout.backends, "available", lambda name: absent)
    image, _ = photograph()
    with pytest.raises(InputError, match="pip install it") as error:
        prepare_image(image)
    assert error.value.code == "object_image.busy_background"


def test_noise_and_a_plain_sheet_show_no_object() -> None:
    sheet = Image.new("RGB", (64, 64), (90, 90, 90))
    assert code_of(lambda: prepare_image(sheet), InputError).startswith("object_image.")


@pytest.mark.parametrize("background", ["busy", "plain"])
def test_stray_transparent_pixels_are_no_mask(background: str) -> None:
    image, ball = photograph()
    if background == "plain":
        pixels = np.where(ball[:, :, None], np.asarray(image), 120).astype(np.uint8)
        image = Image.fromarray(pixels)
    wanted = np.asarray(prepare_image(image, size=48)).astype(int)
    pixels = np.dstack([np.asarray(image), np.full(ball.shape, 255, np.uint8)])
    for row, column in ((0, 0), (60, 62), (119, 3), (7, 90)):
        pixels[row, column] = (0, 0, 0, 0)
        stray = Image.fromarray(pixels.copy())
        assert not tells_object(stray)
        found = np.asarray(prepare_image(stray, size=48)).astype(int)
        assert np.abs(found - wanted).mean() < 6


def test_a_transparent_frame_is_no_mask() -> None:
    image, _ = photograph()
    framed = Image.new("RGBA", (124, 124))
    framed.paste(image, (2, 2))
    assert not tells_object(framed)
    ready = np.asarray(prepare_image(framed, size=60))
    # the ball fills 50 of 60 pixels: the wall around it is gone
    red = (ready[:, :, 0] > 100) & (ready[:, :, 1] < 100)
    assert 0.4 < red.mean() < 0.65 and ready[:4, :4].max() == 0


def test_a_cut_out_that_fills_its_box_is_a_mask() -> None:
    assert tells_object(painted((100, 60), (10, 20, 71, 51)))
    tight = Image.new("RGBA", (50, 50))
    tight.paste((200, 0, 0, 255), (0, 0, 50, 30))
    assert tells_object(tight)


def test_a_mask_decides() -> None:
    image, ball = photograph()
    right = np.zeros_like(ball)
    right[:, 60:] = True
    found = np.asarray(prepare_image(image, size=48, mask=ball & right))
    assert (found[:, :, 0] > 100).any() and found.max(axis=2)[:, :10].max() == 0


def code_of(call: object, kind: type[Geo3dError]) -> str:
    with pytest.raises(kind) as error:
        call()  # type: ignore[operator]
    return error.value.code


def test_mistakes_are_named(tmp_path: Path) -> None:
    nothing = Image.new("RGBA", (8, 8), (255, 0, 0, 20))
    assert code_of(lambda: prepare_image(nothing), InputError) == "object_image.no_object"
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    busy = Image.fromarray(noise)
    absent = tmp_path / "a.png"
    assert code_of(lambda: read_image(absent), InputError) == "object_image.missing"
    absent.write_text("x")
    assert code_of(lambda: read_image(absent), FileFormatError) == "object_image.unreadable"
    busy.save(absent)
    assert read_image(absent).mode == "RGBA"
    assert code_of(lambda: read_image(absent, 100), LimitError) == "object_image.too_large"
