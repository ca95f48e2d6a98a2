"""Image files of every mode and depth against their 8-bit twins; masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geo3d.errors import FileFormatError, InputError
from scenes.objects.image_files import as_rgba, eight_bits, read_image, read_mask


def twin() -> np.ndarray:
    """Return a grey image of 8 bits: a bright object on white with a dark side."""
    grey = np.full((20, 30), 255, np.uint8)
    grey[5:15, 8:22] = np.arange(10, 150, 10)[None, :]
    return grey


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(as_rgba(image))


def test_sixteen_bits_are_as_their_eight_bit_twin(tmp_path: Path) -> None:
    """Not black and flat (case `gray16`)."""
    wanted = pixels_of(Image.fromarray(twin()))
    deep = Image.fromarray(twin().astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for name in ("a.png", "a.tiff"):
        deep.save(tmp_path / name)
        assert (np.asarray(read_image(tmp_path / name)) == wanted).all()


@pytest.mark.parametrize(
    "values",
    [
        twin().astype(np.int32),
        twin().astype(np.int32) * 257,
        twin().astype(np.uint16) * 16 + 15,
        (twin() / 255).astype(np.float32),
        twin().astype(np.float32),
        twin().astype(np.float32) * 257,
        (twin().astype(np.int32) - 10) * 100_000 - 7,
    ],
    ids=["I", "I of 16 bits", "12 bits", "F to 1", "F to 255", "F to 65535", "I of 32 bits"],
)
def test_numbers_of_any_depth(values: np.ndarray) -> None:
    found = pixels_of(Image.fromarray(values))
    wanted = twin().astype(int)
    if values.min() < 0:
        wanted = np.rint((wanted - 10) / 245 * 255).astype(int)
    assert found.shape == (20, 30, 4) and (found[:, :, 3] == 255).all()
    assert np.abs(found[:, :, 0].astype(int) - wanted).max() <= 1


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(FileFormatError):
        eight_bits(np.array([[np.nan, 1.0]]))


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    rgba = np.dstack([twin(), twin()[::-1], 255 - twin(), np.where(twin() < 200, 255, 0)])
    for depth, name in ((3, "rgb"), (4, "rgba")):
        values = rgba[:, :, :depth].astype(np.uint16) * 257
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), values[:, :, [2, 1, 0, 3][:depth]])
        assert (np.asarray(read_image(path))[:, :, :depth] == rgba[:, :, :depth]).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBa", "La", "CMYK", "YCbCr"]
)
def test_every_mode_becomes_rgba(mode: str) -> None:
    image = Image.fromarray(twin())
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)
    found = pixels_of(image)
    assert found.shape == (20, 30, 4) and found[0, 0].tolist() == [255, 255, 255, 255]
    if mode != "1":
        assert np.abs(found[10, 8:22, 0].astype(int) - twin()[10, 8:22]).max() <= 3


def test_hsv_and_lab() -> None:
    red = Image.new("RGB", (4, 4), (200, 30, 30))
    assert np.abs(pixels_of(red.convert("HSV"))[0, 0, :3] - np.array([200.0, 30, 30])).max() < 5
    assert np.abs(pixels_of(red.convert("LAB"))[0, 0, :3] - np.array([200.0, 30, 30])).max() < 5


def test_one_clear_colour_becomes_opacity(tmp_path: Path) -> None:
    grey = Image.fromarray(twin())
    for image, clear in (
        (grey, 255),
        (grey.convert("RGB"), (255, 255, 255)),
        (Image.fromarray(twin().astype(np.uint16) * 257), 65535),
    ):
        image.save(tmp_path / "clear.png", transparency=clear)
        alpha = np.asarray(read_image(tmp_path / "clear.png"))[:, :, 3]
        assert ((alpha == 0) == (twin() == 255)).all(), image.mode
    palette = grey.convert("RGB").quantize(16)
    index = int(np.asarray(palette)[0, 0])
    palette.save(tmp_path / "palette.png", transparency=index)
    alpha = np.asarray(read_image(tmp_path / "palette.png"))[:, :, 3]
    assert alpha[0, 0] == 0 and alpha[10, 10] == 255


def test_the_camera_turns_the_image(tmp_path: Path) -> None:
    for image in (Image.fromarray(twin()), Image.fromarray(twin().astype(np.uint16) * 257)):
        notes = Image.Exif()
        notes[0x0112] = 6
        image.save(tmp_path / "turned.png", exif=notes)
        found = np.asarray(read_image(tmp_path / "turned.png"))[:, :, 0]
        assert (found == np.rot90(twin(), -1)).all()


def test_damaged_notes_turn_nothing(tmp_path: Path) -> None:
    image = Image.fromarray(twin()).convert("RGB")
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff broken", quality=95)
    assert read_image(tmp_path / "a.jpg").size == (30, 20)


def test_a_mask_is_light_or_opaque(tmp_path: Path) -> None:
    marked = np.zeros((20, 30), bool)
    marked[5:15, 8:22] = True
    grey = Image.fromarray(np.where(marked, 255, 0).astype(np.uint8))
    rgba = np.dstack([np.zeros((20, 30, 3)), 255 * marked]).astype(np.uint8)
    clear = Image.fromarray(rgba)
    for image in (grey, clear, grey.convert("1"), grey.convert("RGB")):
        image.save(tmp_path / "mask.png")
        assert (read_mask(tmp_path / "mask.png", (30, 20)) == marked).all()
    grey.save(tmp_path / "mask.png")
    doubled = read_mask(tmp_path / "mask.png", (60, 40))
    assert (doubled[::2, ::2] == marked).all() and doubled.sum() == 4 * marked.sum()


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.new("L", (30, 20)).save(path)
    for size in ((30, 20), (20, 30)):
        with pytest.raises(InputError) as error:
            read_mask(path, size)
        assert error.value.code == "object_image.wrong_mask"
