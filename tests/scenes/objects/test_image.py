"""From photographs to objects on black."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geo3d.errors import FileFormatError, Geo3dError, InputError, LimitError
from scenes.objects.image import (
    has_transparency,
    prepare_image,
    read_image,
    remove_plain_background,
)


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
    assert not has_transparency(opaque)
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


def code_of(call: object, kind: type[Geo3dError]) -> str:
    with pytest.raises(kind) as error:
        call()  # type: ignore[operator]
    return error.value.code


def test_mistakes_are_named(tmp_path: Path) -> None:
    nothing = Image.new("RGBA", (8, 8), (255, 0, 0, 20))
    assert code_of(lambda: prepare_image(nothing), InputError) == "object_image.no_object"
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    busy = Image.fromarray(noise)
    assert code_of(lambda: prepare_image(busy), InputError) == "object_image.busy_background"
    absent = tmp_path / "a.png"
    assert code_of(lambda: read_image(absent), InputError) == "object_image.missing"
    absent.write_text("x")
    assert code_of(lambda: read_image(absent), FileFormatError) == "object_image.unreadable"
    busy.save(absent)
    assert read_image(absent).mode == "RGBA"
    assert code_of(lambda: read_image(absent, 100), LimitError) == "object_image.too_large"
