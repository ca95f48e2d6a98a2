"""The pictures of a run, ready to be put into a page: read, made small enough, written anew.

No byte of a file goes into the page as it is, but for films, which browsers alone can read.
"""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from apps.report.files import own_files

_log = logging.getLogger(__name__)

MOST = 24
"""Pictures of a run that are shown."""
BUDGET = 5_000_000
"""Bytes of all pictures of a page."""
_WIDEST = 1400
_MOST_PIXELS = 64_000_000
_BIG = 250_000
"""Bytes of a PNG from which a lossy format is tried."""
_MOST_FILM = 3_000_000
_TYPES = (".png", ".jpg", ".jpeg", ".webp")
_LAST = ("fmap", "live-fmap", "progress")
"""Previews of how it went, after those of what came of it."""
_INSIDE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]{64,})")


@dataclass(frozen=True)
class Picture:
    """An image or film of a run."""

    title: str
    """For people; untrusted text."""
    address: str
    """A data: address."""
    is_film: bool = False

    @property
    def n_bytes(self) -> int:
        """What it adds to a page."""
        return len(self.address)


def pictures_of(run: Path, verb: str, budget: int = BUDGET) -> tuple[list[Picture], int]:
    """Return the pictures of a run, the important ones first, and how many are left out."""
    shown: list[Picture] = []
    left_out = 0
    for title, source in _sources(run, verb):
        room = budget - sum(picture.n_bytes for picture in shown)
        made = _encoded(title, source) if len(shown) < MOST else None
        if made is not None and made.n_bytes <= room:
            shown.append(made)
        else:
            left_out += 1
    return shown, left_out


def thumbnail(run: Path, side: int = 220) -> bytes | None:
    """Return a small JPEG of the run's main picture, None without one."""
    for _, source in _sources(run, ""):
        if isinstance(source, Path) and source.suffix.lower() not in _TYPES:
            continue
        try:
            with _opened(source) as image:
                image.thumbnail((2 * side, side))
                stream = io.BytesIO()
                _flat(image).save(stream, "JPEG", quality=82)
                return stream.getvalue()
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
    return None


def _sources(run: Path, verb: str) -> Iterator[tuple[str, Path | bytes]]:
    """Yield what may be shown: films, previews, masks, pictures inside pages of the run."""
    outputs = own_files(run, "outputs", ".mp4", ".gif", ".html", *_TYPES)
    films = [p for p in outputs if p.suffix in (".mp4", ".gif")]
    # the film that browsers play and that takes least; a .gif is the same one
    names = {p.stem for p in films if p.suffix == ".mp4"}
    yield from ((p.name, p) for p in films if p.suffix == ".mp4" or p.stem not in names)
    previews = sorted(own_files(run, "previews", *_TYPES), key=lambda p: p.stem in _LAST)
    yield from ((p.stem, p) for p in previews)
    if verb == "segment":
        yield from ((p.stem, p) for p in outputs if p.suffix in _TYPES)
    for page in (p for p in outputs if p.suffix == ".html"):
        text = page.read_text("utf-8", errors="replace")
        for i, found in enumerate(_INSIDE.findall(text)[:MOST]):
            yield f"{page.name}, {i + 1}", base64.b64decode(found + "=" * (-len(found) % 4))


def _encoded(title: str, source: Path | bytes) -> Picture | None:
    """Return a picture for the page; None for what cannot be shown."""
    try:
        if isinstance(source, Path) and source.suffix == ".mp4":
            data = source.read_bytes()
            is_film = len(data) <= _MOST_FILM and data[4:8] == b"ftyp"
            return Picture(title, _address("video/mp4", data), True) if is_film else None
        if isinstance(source, Path) and source.suffix == ".gif":
            return _animation(title, source)
        with _opened(source) as image:
            return Picture(title, _small(image))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        _log.info("%s is not shown: %s", title, error)
        return None


def _animation(title: str, path: Path) -> Picture | None:
    data = path.read_bytes()
    if len(data) > _MOST_FILM:
        return None
    with _opened(path) as image:
        image.load()
    return Picture(title, _address("image/gif", data))


def _opened(source: Path | bytes) -> Image.Image:
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    image = Image.open(stream, formats=("PNG", "JPEG", "WEBP", "GIF"))
    if image.width * image.height > _MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too many")
    return image


def _small(image: Image.Image) -> str:
    image.load()
    flat = _flat(image) if image.mode not in ("L", "RGB", "RGBA") else image
    if flat.width > _WIDEST:
        flat = flat.resize((_WIDEST, max(1, round(flat.height * _WIDEST / flat.width))))
    stream = io.BytesIO()
    flat.save(stream, "PNG", optimize=flat.width * flat.height < 500_000)
    if stream.tell() <= _BIG:
        return _address("image/png", stream.getvalue())
    lossy = io.BytesIO()
    _flat(flat).save(lossy, "JPEG", quality=88)
    best = min(("image/png", stream), ("image/jpeg", lossy), key=lambda kind: kind[1].tell())
    return _address(best[0], best[1].getvalue())


def _flat(image: Image.Image) -> Image.Image:
    """Return an image without transparency, on white."""
    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value / 257).convert("L").convert("RGB")
    rgba = image.convert("RGBA")
    ground = Image.new("RGBA", rgba.size, "white")
    ground.alpha_composite(rgba)
    return ground.convert("RGB")


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
