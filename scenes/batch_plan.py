"""What a batch of street scenes is: layouts x prompts x styles x seeds, read from a YAML file.

preset: demo
layouts:
  - crossing                                  # a shipped street, by name
  - streets/mine.json                         # a file, relative to the batch file
  - {kind: curved, length: 60}                # a made-up street, another one for every seed
  - {kind: straight, length: 40, seed: 7}     # always the same
styles: [sunny, snowy night]
seeds: [0, 1]
settings: {fit: {rounds: 2}}                  # of scenes.urban.config.SceneConfig
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from geo3d.config import config_from_dict, load_config, read_yaml, require, require_at_least
from geo3d.errors import ConfigError, InputError
from geo3d.files import asset, slug
from geo3d.layout.layout import Layout
from geo3d.work.slurm import EngineName, SlurmConfig
from scenes.urban.config import PRESETS, SceneConfig

SHIPPED = "urban/streets"
"""Where shipped streets lie among the assets."""
_SUFFIXES = (".json", ".npy", ".npz")


@dataclass(frozen=True)
class LayoutEntry:
    """One layout of a batch: exactly one of ``file``, ``name`` and ``kind``.

    Raises:
        ConfigError: ``batch.bad_layout``.
    """

    file: str | None = None
    """A layout file, or a published sample (.npy, .npz)."""
    name: str | None = None
    """A shipped street."""
    kind: Literal["straight", "curved", "crossing"] | None = None
    """A made-up street."""
    length: float = 60.0
    """Metres of a made-up street."""
    seed: int | None = None
    """Which made-up street; null takes the seed of the item."""
    hills: float = 0.0
    """Height of the hills of a made-up street, metres."""

    def __post_init__(self) -> None:
        given = [one for one in (self.file, self.name, self.kind) if one is not None]
        if len(given) != 1:
            raise ConfigError(
                "batch.bad_layout",
                f"A layout gives {len(given)} of file, name and kind.",
                "Give one of the three.",
            )

    @property
    def label(self) -> str:
        """A short name for tables and folders."""
        if self.kind is not None:
            which = "" if self.seed is None else f"-{self.seed}"
            return f"{self.kind}-{self.length:g}m{which}"
        return self.name or Path(self.file or "").stem


@dataclass(frozen=True)
class BatchConfig:
    """A batch.

    Raises:
        ConfigError: ``batch.no_items``, ``config.bad_value``.
    """

    layouts: tuple[LayoutEntry, ...] = ()
    prompts: tuple[str, ...] = ("",)
    """What scenes look like; "" takes the layout's own words."""
    styles: tuple[str, ...] = ("",)
    """Added to every prompt, each in turn."""
    seeds: tuple[int, ...] = (0,)
    preset: str = "demo"
    """Of `scenes.urban.config`."""
    settings: tuple[str, ...] = ()
    """Changes to the preset, as "fit.rounds=2"; a mapping in the file."""
    device: str = "auto"
    retries: int = 1
    """How often a scene is tried again after a failure that may have been the machine's."""
    timeout: float | None = None
    """Seconds a scene may take on this machine; null for no limit."""
    workers: int = 1
    """Scenes at a time."""
    engine: EngineName = "local"
    """Processes of this machine, or jobs of a cluster."""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    def __post_init__(self) -> None:
        lists = {"layouts": self.layouts, "prompts": self.prompts, "styles": self.styles}
        for name, values in {**lists, "seeds": self.seeds}.items():
            if not values:
                raise ConfigError("batch.no_items", f"The list {name!r} is empty.", "")
        require_at_least(self, 1, "workers")
        require_at_least(self, 0, "retries")
        require(self.timeout is None or self.timeout > 0, "timeout", "above 0 or none")


@dataclass(frozen=True)
class Item:
    """One scene of a batch."""

    index: int
    name: str
    """Unique; also the name of its folder."""
    layout: LayoutEntry
    prompt: str
    seed: int


@dataclass(frozen=True)
class ItemRecord:
    """What became of a scene."""

    item: Item
    status: str
    """ "done", "failed", or "open": not finished yet."""
    attempts: int = 0
    seconds: float = 0.0
    """Of the last attempt."""
    run: str | None = None
    """Its run folder, relative to that of the batch."""
    metrics: Mapping[str, Any] | None = None
    error: Mapping[str, str] | None = None


def read_batch(
    path: str | PathLike[str],
    changes: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> BatchConfig:
    """Read a batch file; unknown keys are refused, with the nearest known one.

    Args:
        changes: keys that replace those of the file.
        settings: added to those of the file, as "fit.rounds=2".

    Raises:
        ConfigError: those of `load_config`, ``batch.bad_layout``, ``batch.unknown_layout``,
            ``batch.no_items``.
    """
    values = _plain({**read_yaml(path), **(changes or {})})
    if isinstance(layouts := values.get("layouts"), list):
        base = Path(path).resolve().parent
        values["layouts"] = [_entry(one, base, i) for i, one in enumerate(layouts)]
    if isinstance(given := values.get("settings", {}), dict):
        values["settings"] = [*_overrides(given), *settings]
    config = config_from_dict(BatchConfig, values)
    scene_config(config)
    return config


def scene_config(config: BatchConfig, item: Item | None = None) -> SceneConfig:
    """Return the settings of a batch's scenes, with the prompt and seed of an item.

    Raises:
        ConfigError: those of `load_config`.
    """
    settings = load_config(SceneConfig, None, config.preset, config.settings, presets=PRESETS)
    return settings if item is None else replace(settings, prompt=item.prompt, seed=item.seed)


def expand(config: BatchConfig) -> tuple[Item, ...]:
    """Return all scenes of a batch; layouts change slowest, seeds fastest."""
    items = []
    grid = product(config.layouts, config.prompts, config.styles, config.seeds)
    for index, (layout, prompt, style, seed) in enumerate(grid):
        words = ", ".join(part for part in (prompt, style) if part)
        parts = [layout.label, *([words] if words else []), str(seed)]
        name = f"{index:03d}-{slug('-'.join(parts), 40)}"
        items.append(Item(index, name, layout, words, seed))
    return tuple(items)


def check_batch(config: BatchConfig) -> None:
    """Raise when scenes of a batch cannot be made, from what is there and the words alone.

    Raises:
        InputError: ``batch.missing_layout``.
        ConfigError: ``batch.duplicate``, ``styles.unknown``, ``styles.too_many``.
        CheckpointError: a teacher that cannot work.
    """
    from scenes.urban.teachers.choice import check_settings, check_words

    files = dict.fromkeys(entry.file for entry in config.layouts if entry.file is not None)
    if missing := [file for file in files if not Path(file).is_file()]:
        raise InputError(
            "batch.missing_layout",
            f"{len(missing)} layouts are not there: {', '.join(missing[:5])}.",
            "Paths are relative to the batch file.",
        )
    items = expand(config)
    made = Counter((item.layout, item.prompt, item.seed) for item in items)
    if repeated := [key for key, count in made.items() if count > 1]:
        layout, prompt, seed = repeated[0]
        raise ConfigError(
            "batch.duplicate",
            f"{len(repeated)} scenes are asked for more than once: layout {layout.label}, prompt "
            f"{prompt!r}, seed {seed} first.",
            "Take the repeated layout, word or seed out of its list.",
        )
    settings = scene_config(config)
    check_settings(settings)
    check_words(settings, dict.fromkeys(item.prompt for item in items))


def open_layout(entry: LayoutEntry, seed: int) -> Layout:
    """Read or make the layout of an entry.

    Raises:
        InputError: whatever is wrong with the file.
    """
    from geo3d.synth.streets.generate import generate_street
    from scenes.urban.imports.samples import import_sample
    from scenes.urban.layout_json import load_layout

    if entry.kind is not None:
        number = seed if entry.seed is None else entry.seed
        return generate_street(entry.length, number, entry.kind, hills=entry.hills)
    if entry.name is not None:
        return load_layout(asset(f"{SHIPPED}/{entry.name}.json"))
    file = Path(entry.file or "")
    return import_sample(file) if file.suffix in (".npy", ".npz") else load_layout(file)


def shipped_streets() -> tuple[str, ...]:
    """Return the names of the shipped streets."""
    return tuple(sorted(path.stem for path in asset(SHIPPED).glob("*.json")))


def _entry(given: Any, base: Path, index: int) -> dict[str, Any]:
    """Return a layout of the file as the keys of `LayoutEntry`, checked, paths absolute."""
    if isinstance(given, str):
        given = {"file" if given.endswith(_SUFFIXES) else "name": given}
    if not isinstance(given, dict):
        message = f"layouts[{index}] is {given!r}."
        raise ConfigError("batch.bad_layout", message, "Give a name, a file, or keys such as kind.")
    try:
        entry = config_from_dict(LayoutEntry, given)
    except ConfigError as error:
        raise ConfigError(error.code, f"layouts[{index}]: {error.message}", error.hint) from error
    if entry.name is not None and entry.name not in shipped_streets():
        near = difflib.get_close_matches(entry.name, shipped_streets(), n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            "batch.unknown_layout",
            f"layouts[{index}]: there is no shipped street {entry.name!r}.{guess}",
            f"Shipped: {', '.join(shipped_streets())}; files end in {', '.join(_SUFFIXES)}.",
        )
    return {**given, "file": str(base / entry.file)} if entry.file is not None else given


def _overrides(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _overrides(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values in which one text or number stands for a list of one."""
    listed = ("layouts", "prompts", "styles", "seeds")
    return {
        key: [value] if key in listed and not isinstance(value, list | tuple) else value
        for key, value in values.items()
    }
