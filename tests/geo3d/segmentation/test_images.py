"""Reading images and labels that nobody vouches for."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geo3d.errors import FileFormatError, Geo3dError, InputError, LimitError
from geo3d.segmentation.images import (
    ImageLimits,
    label_from_values,
    read_image,
    read_label,
    save_mask,
)

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_rgb_comes_back_as_it_is(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(COLOUR)))
    np.testing.assert_array_equal(image.pixels, COLOUR)
    assert image.notes == ()


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(COLOUR).save(path, format="PNG")
    np.testing.assert_array_equal(read_image(path).pixels, COLOUR)


def test_sixteen_bits_are_divided_by_257(tmp_path: Path) -> None:
    values = np.array([[0, 257, 65535, 128 * 257]], dtype=np.uint16)
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(values)))
    np.testing.assert_array_equal(image.pixels[0, :, 0], [0, 1, 255, 128])
    assert image.pixels.shape == (1, 4, 3)
    assert "16 bits" in image.notes[0]


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    values = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(values)))
    np.testing.assert_array_equal(image.pixels, [[[10, 20, 30], [255, 255, 255]]])
    assert image.notes == ("transparency laid over white",)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "PA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (5, 4))
    ending = "tif" if mode in ("CMYK", "PA") else "png"
    if mode == "PA":
        image, mode = image.convert("RGBA"), "RGBA"
    found = read_image(saved(tmp_path / f"a.{ending}", image))
    assert found.pixels.shape == (4, 5, 3)
    assert found.notes


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read_image(saved(tmp_path / "a.png", image, exif=exif))
    np.testing.assert_array_equal(found.pixels, np.rot90(COLOUR, -1))
    assert found.notes == ("turned upright as the camera noted",)


def test_the_first_of_several_frames_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(COLOUR), Image.new("RGB", (9, 6))]
    path = saved(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:])
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, COLOUR)
    assert image.notes == ("first of 2 frames",)


def test_floats_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.zeros((3, 3), np.float32)))
    with pytest.raises(FileFormatError, match=r"image\.unsupported"):
        read_image(path)


def test_too_many_bytes_or_pixels_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(COLOUR))
    for limits in (ImageLimits(max_bytes=20), ImageLimits(max_pixels=53)):
        with pytest.raises(LimitError, match=r"image\.too_large"):
            read_image(path, limits)
    assert read_image(path, ImageLimits(max_pixels=54)).pixels.shape == COLOUR.shape


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that says it is very large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 60_000, 2_000_000_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side, side))
    with pytest.raises(LimitError, match=r"image\.too_large"):
        read_image(path)


def test_no_file_and_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image\.missing"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"image\.missing"):
        read_image(tmp_path)
    for content in (b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a" + bytes(40)):
        (tmp_path / "odd.png").write_bytes(content)
        with pytest.raises(FileFormatError, match=r"image\.unreadable"):
            read_image(tmp_path / "odd.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"])
def test_damaged_files_raise_nothing_else(tmp_path: Path, kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(COLOUR).save(stream, format=kind)
    whole = stream.getvalue()
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged"
    for trial in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(0, 256)
        path.write_bytes(bytes(data[: rng.integers(1, len(data))] if trial % 2 else data))
        try:
            assert read_image(path).pixels.dtype == np.uint8
        except Geo3dError as error:
            assert error.code.startswith("image.")


def test_a_mask_written_is_read_again(tmp_path: Path) -> None:
    mask = COLOUR[..., 0] > 100
    label = read_label(save_mask(tmp_path / "mask.png", mask))
    np.testing.assert_array_equal(label.mask, mask)
    assert label.notes == ()


def test_other_values_are_brick_and_counted() -> None:
    label = label_from_values(np.array([[0, 255, 8, 8, 254]], dtype=np.uint8), "x")
    np.testing.assert_array_equal(label.mask, [[False, True, False, False, False]])
    assert label.notes == ("3 pixels with values other than 0 and 255 (8, 254) are brick",)


def test_empty_and_full_labels_are_noted() -> None:
    assert label_from_values(np.zeros((2, 2), np.uint8), "x").notes == ("no mortar",)
    assert label_from_values(np.full((2, 2), 255, np.uint8), "x").notes == ("all mortar",)


def test_a_label_without_255_but_with_something_else_is_refused() -> None:
    with pytest.raises(InputError, match=r"image\.bad_label.*0/1|0/1.*"):
        label_from_values(np.array([[0, 1]], dtype=np.uint8), "x")


def test_grey_labels_in_other_modes_are_read(tmp_path: Path) -> None:
    mask = COLOUR[..., 0] > 100
    grey = mask.astype(np.uint8) * 255
    for name, image in (
        ("rgb.png", Image.fromarray(np.repeat(grey[..., None], 3, 2))),
        ("one.png", Image.fromarray(grey).convert("1")),
        ("sixteen.png", Image.fromarray(mask.astype(np.uint16) * 65535)),
        ("palette.png", Image.fromarray(grey).convert("P")),
    ):
        np.testing.assert_array_equal(read_label(saved(tmp_path / name, image)).mask, mask)
    with pytest.raises(InputError, match=r"image\.bad_label"):
        read_label(saved(tmp_path / "colour.png", Image.fromarray(COLOUR)))
