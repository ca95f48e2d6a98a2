"""What every importer needs: names that are counted, safe XML and JSON, shapes, a drive.

World of maps: metres, x east, y north, z up.  World of layouts: x right, y down, z forward; the one
becomes the other by (x, y, z) -> (x, -z, y), a turn, so that nothing is mirrored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from jaxtyping import Float

from geo3d.errors import FileFormatError, Geo3dError, InputError, LimitError
from geo3d.files import slug
from geo3d.layout.classes import GROUND, SKIPPED
from geo3d.layout.layout import Layout, Primitive, slab
from scenes.urban.validate import depths_below

MAX_BYTES = 1 << 30
MAX_DEPTH = 200
"""Of elements in each other."""
FROM_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
EYE_HEIGHT = 1.55
"""Metres of a made-up camera above its road."""
STEP = 0.7
"""Metres between two cameras of a made-up drive."""
UNKNOWN = "unknown object"
_SHUNNED = frozenset({"building", "garage", "car", "truck", "bus", "van"})
_CLEARANCE = 0.5
_AROUND, _LOWER = 40.0, 0.15
"""Metres of ground on all sides of a drive, and how much lower than the road it lies."""


@dataclass
class Names:
    """Class names of a format, as ours; what was not known or not wanted is counted."""

    known: Mapping[str, str]
    """Their names (lower case letters only) to ours; "" for what is left out."""
    mapped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def of(self, label: str, default: str = UNKNOWN) -> str:
        """Return our name for a label; the default for one that is not known, and count it."""
        name = self.known.get(plain(label))
        if name is None:
            self.mapped[f"{label} -> {default or 'left out'}"] += 1
            name = default
        if name == "" or name in SKIPPED:
            self.skipped[label] += 1
            return ""
        return name


@dataclass(frozen=True, eq=False)
class Imported:
    """A layout from a foreign file, and what did not come along as it was."""

    layout: Layout
    mapped: Mapping[str, int] = field(default_factory=dict)
    """Unknown labels and what became of them, with their numbers."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Labels that were left out on purpose, with their numbers."""

    def lines(self) -> list[str]:
        """Return the counts as text."""
        counts = Counter(p.name for p in self.layout.primitives)
        lines = [", ".join(f"{n} {name}" for name, n in sorted(counts.items()))]
        lines += [f"not known: {label} ({n})" for label, n in sorted(self.mapped.items())]
        return lines + [f"left out: {label} ({n})" for label, n in sorted(self.skipped.items())]


def plain(label: str) -> str:
    """Return the letters and digits of a label in lower case: "bigPole", "big pole" are one."""
    return "".join(c for c in label.lower() if c.isalnum())


LONGEST = 1e6
"""Metres that a line of an imported file may have: far more than a town, and little memory."""
_Options = ParamSpec("_Options")
_Read = Callable[Concatenate[Path, _Options], Imported]


class MalformedError(ValueError):
    """What a foreign file says has not the form, or the range, that it should have."""


@contextmanager
def parsing() -> Iterator[None]:
    """Within this block the content of a foreign file is taken apart, and nothing else is done.

    What is missing there, or of another kind, is the file's fault.  Everywhere else the same errors
    are faults of ours, and are not caught.

    Raises:
        MalformedError: for them.
    """
    try:
        yield
    except Geo3dError:
        raise
    except (
        AttributeError,
        LookupError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error, MalformedError):
            raise
        raise MalformedError(f"{type(error).__name__} {error}") from error


def existing(path: Path, max_bytes: int = MAX_BYTES) -> Path:
    """Return the path of a file that is there and not too large.

    Raises:
        InputError: ``file.missing``.
        LimitError: ``layout_file.too_large``.
    """
    if not path.is_file():
        raise InputError("file.missing", f"There is no file {path}.", "")
    if path.stat().st_size > max_bytes:
        message = f"{path} has {path.stat().st_size} bytes; at most {max_bytes} are read."
        raise LimitError("layout_file.too_large", message, "")
    return path


def bad_file(path: Path, what: str, why: object, hint: str = "") -> NoReturn:
    """Raise: a file is not what it should be.

    Raises:
        FileFormatError: ``layout_file.bad_import``.
    """
    raise FileFormatError("layout_file.bad_import", f"{path} is not {what}: {why}.", hint)


def importer(what: str) -> Callable[[_Read[_Options]], _Read[_Options]]:
    """Decorate what reads a file: a `MalformedError` names the file and what it should be.

    Numbers out of range are told so, not by numpy; what is not finite, by `finished`.
    """

    def decorate(read: _Read[_Options]) -> _Read[_Options]:
        @wraps(read)
        def run(path: Path, *args: _Options.args, **options: _Options.kwargs) -> Imported:
            try:
                with np.errstate(all="ignore"):
                    return read(path, *args, **options)
            except MalformedError as error:
                bad_file(path, what, error)
            except MemoryError:
                bad_file(path, what, "it asks for more memory than there is")

        return run

    return decorate


def read_xml(path: Path, what: str) -> Element:
    """Return the root of an XML file that defines no document type and no entities.

    Names lose their namespaces.

    Raises:
        FileFormatError: ``layout_file.bad_import``.
    """
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        builder.start(name.rpartition(":")[2], attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name.rpartition(":")[2])

    def refuse(*_: object) -> int:
        raise ValueError("it defines a document type or entities")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        with open(existing(path), "rb") as stream:
            parser.ParseFile(stream)
        return builder.close()
    except (expat.ExpatError, ValueError, AssertionError) as error:
        bad_file(path, what, error)


def read_json(path: Path, what: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileFormatError: ``layout_file.bad_import``.
    """
    try:
        return json.loads(existing(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        bad_file(path, what, error)


def numbered(parts: Iterable[Primitive]) -> tuple[Primitive, ...]:
    """Give primitives ids by class and running number."""
    seen: Counter[str] = Counter()
    made = []
    for part in parts:
        made.append(replace(part, id=f"{slug(part.name)}-{seen[part.name]:03d}"))
        seen[part.name] += 1
    return tuple(made)


def finished(
    name: str, parts: Sequence[Primitive], trajectory: Float[np.ndarray, "n 4 4"], names: Names
) -> Imported:
    """Return a layout in which the drive is free.

    Buildings and vehicles that hold a camera are left out and counted.

    Raises:
        MalformedError: numbers are not finite.
    """
    numbers = (trajectory, *(part.transform for part in parts), *(p.vertices for p in parts))
    if not all(np.isfinite(array).all() for array in numbers):
        raise MalformedError("some of its numbers are not finite")
    kept = []
    for part in parts:
        if part.name in _SHUNNED and holds_one(part, trajectory[:, :3, 3]):
            names.skipped[f"{part.name} in the way of the drive"] += 1
        else:
            kept.append(part)
    return Imported(Layout(name, numbered(kept), trajectory), names.mapped, names.skipped)


def with_ground(
    parts: Sequence[Primitive], trajectory: Float[np.ndarray, "n 4 4"], below: float = EYE_HEIGHT
) -> list[Primitive]:
    """Return the parts with what they lack: a road along the drive, and green ground around it.

    Args:
        below: metres from the cameras to the road.
    """
    line = thinned(trajectory[:, :3, 3] + np.array([0.0, below, 0.0]), 2.0)
    if len(line) == 1:
        # who stands still looks along the road
        line = np.concatenate([line, line + trajectory[0, :3, 2]])
    line = extended(line, 30.0)
    made = [] if any(part.name in GROUND for part in parts) else [ribbon("road", line, 8.0)]
    if not any(part.name == "terrain" for part in parts):
        made.append(_around(line))
    return [*made, *parts]


def _around(line: Float[np.ndarray, "n 3"]) -> Primitive:
    """Return ground a little below a line: a rectangle where it is level, else a ribbon."""
    if np.ptp(line[:, 1]) > 1:
        return ribbon("terrain", line + np.array([0.0, _LOWER, 0.0]), 2 * _AROUND)
    low, high = line.min(axis=0) - _AROUND, line.max(axis=0) + _AROUND
    top = line[:, 1].max() + _LOWER
    left = np.array([[low[0], top, low[2]], [low[0], top, high[2]]])
    return slab("", "terrain", left, left + np.array([high[0] - low[0], 0, 0]))


def holds_one(part: Primitive, places: Float[np.ndarray, "n 3"]) -> bool:
    """Return whether one of the places is inside a primitive, or nearly."""
    low, high = part.bounds()
    near = ((places > low - _CLEARANCE) & (places < high + _CLEARANCE)).all(axis=1)
    if part.kind == "box":
        return bool(near.any())
    return any(len(depths_below(part, place)) % 2 for place in places[near])


def ribbon(name: str, line: Float[np.ndarray, "n 3"], width: float) -> Primitive:
    """Return a slab of a width along a line of the layout's world."""
    side = sideways(line) * (width / 2)
    return slab("", name, line - side, line + side)


def sideways(line: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Return unit vectors to the right of a line, level with the ground."""
    along = np.gradient(line[:, [0, 2]], axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True).clip(1e-9)
    return np.stack([along[:, 1], np.zeros(len(line)), -along[:, 0]], axis=1)


def thinned(line: Float[np.ndarray, "n d"], step: float) -> Float[np.ndarray, "m d"]:
    """Return points of a line about every ``step`` metres, its ends among them.

    Raises:
        MalformedError: the line is longer than `LONGEST`.
    """
    if not len(line):
        return line
    keep = np.concatenate([[True], np.linalg.norm(np.diff(line, axis=0), axis=1) > 1e-6])
    line = line[keep]
    if len(line) < 2:
        return line
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()])
    if not along[-1] <= LONGEST:
        raise MalformedError(f"a line of it is {along[-1]:.3g} m long")
    at = np.linspace(0, along[-1], max(2, round(along[-1] / step) + 1))
    return np.stack([np.interp(at, along, column) for column in line.T], axis=1)


def number_in(element: Element, name: str, default: float = 0.0) -> float:
    """Return the number in an attribute of XML; the default where there is none.

    Raises:
        MalformedError: it is no number, or not finite.
    """
    text = element.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise MalformedError(f"{name} of a {element.tag} is {str(text)[:40]!r}")
    return value


def metres_in(element: Element, name: str) -> float:
    """Return the length in an attribute of XML; 0 where there is none.

    Raises:
        MalformedError: it is no number up to `LONGEST`.
    """
    value = number_in(element, name)
    if not abs(value) <= LONGEST:
        raise MalformedError(f"it has a length of {value:.3g} m")
    return value


def extended(line: Float[np.ndarray, "n 3"], length: float) -> Float[np.ndarray, "m 3"]:
    """Return a line that goes on level at both ends."""
    if len(line) < 2:
        return line
    first, last = line[0] - line[1], line[-1] - line[-2]
    ends = []
    for end, way in ((line[0], first), (line[-1], last)):
        way = way * np.array([1.0, 0.0, 1.0])
        ends.append(end + way * (length / max(float(np.linalg.norm(way)), 1e-9)))
    return np.concatenate([ends[:1], line, ends[1:]])


def drive_along(line: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 4 4"]:
    """Return cameras along a line on the ground of the layout's world, looking ahead, level.

    Raises:
        InputError: ``layout_file.no_drive`` for a line of no length.
    """
    line = thinned(np.asarray(line, np.float64), STEP)
    if len(line) < 2 or not np.isfinite(line).all():
        raise InputError(
            "layout_file.no_drive",
            "There is no line to drive along.",
            "Give one: --drive 'X Z, X Z, ...' in metres east and north of the origin.",
        )
    right = sideways(line)
    poses = np.tile(np.eye(4), (len(line), 1, 1))
    poses[:, :3, 0] = right
    poses[:, :3, 1] = [0.0, 1.0, 0.0]
    poses[:, :3, 2] = np.stack([-right[:, 2], np.zeros(len(line)), right[:, 0]], axis=1)
    poses[:, :3, 3] = line - np.array([0.0, EYE_HEIGHT, 0.0])
    return poses
