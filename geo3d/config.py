"""Settings: frozen dataclasses, read from YAML, overridden on the command line, never guessed.

A settings class is a frozen dataclass whose fields are bool, int, float, str, Path, Literal,
tuples of these, other such dataclasses, or any of these or None.  Types are strict: 1 is no bool,
"3" is no int, 2.5 is no int.  Ranges are checked by the class itself in ``__post_init__``.

The value of a setting comes from, in rising order: the class's defaults, a preset (an entry of the
dict ``PRESETS`` in the class's module: a mapping of the settings that differ), the YAML file,
values from code, the overrides ``a.b=value``.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from geo3d.errors import ConfigError

_C = TypeVar("_C")
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 20


class _Text(str):
    """The text of a command-line override, whose type only the field can tell."""


def load_config(
    cls: type[_C],
    path: str | PathLike[str] | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    *,
    values: Mapping[str, Any] | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> _C:
    """Return settings of class ``cls``: defaults, then preset, file, values, overrides.

    Args:
        cls: a frozen dataclass.
        path: YAML file.
        preset: name in ``presets``.
        overrides: ``key=value`` with dotted keys; values are written as in YAML.
        values: by dotted key, taken as they are: never write them as overrides, where text would
            have to be quoted.
        presets: defaults to ``PRESETS`` in the module of ``cls``.

    Raises:
        ConfigError: ``config.unknown_key``, ``config.bad_type``, ``config.bad_value``,
            ``config.bad_yaml``, ``config.no_file``, ``config.unknown_preset``,
            ``config.bad_override``.
    """
    merged: dict[str, Any] = {}
    if preset is not None:
        known = getattr(sys.modules[cls.__module__], "PRESETS", {}) if presets is None else presets
        _merge(merged, _find_preset(preset, known))
    if path is not None:
        _merge(merged, read_yaml(path))
    _merge(merged, values or {})
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                "config.bad_override",
                f"{override!r} is not of the form KEY=VALUE.",
                "Write for instance zoomout.k_final=100.",
            )
        _merge(merged, {key.strip(): _Text(text.strip())})
    return config_from_dict(cls, merged)


def config_from_dict(cls: type[_C], values: Mapping[str, Any]) -> _C:
    """Return settings of class ``cls`` from a (nested) mapping; see `load_config` for errors."""
    merged: dict[str, Any] = {}
    _merge(merged, values)
    return _build(cls, merged, "", tuple(_keys(cls)))


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return settings as nested plain dicts, lists and scalars, complete, in field order."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def dump_config(config: Any) -> str:
    """Return settings as YAML text that `load_config` reads back to an equal object."""
    # Plain ASCII with escapes: the library writes some line separators so that they read as spaces.
    return yaml.safe_dump(config_to_dict(config), sort_keys=False)


def config_hash(config: Any) -> str:
    """Return a SHA-256 hex digest of the settings' names and values (field order is ignored)."""
    text = json.dumps(config_to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def require(holds: bool, name: str, what: str) -> None:
    """Refuse a value: "NAME must be WHAT".

    Raises:
        ConfigError: ``config.bad_value`` unless ``holds``.
    """
    if not holds:
        raise ConfigError("config.bad_value", f"{name} must be {what}.", "")


def require_at_least(config: Any, least: float, names: str) -> None:
    """Refuse settings below ``least``; ``names`` are separated by spaces; as `require`."""
    for name in names.split():
        require(getattr(config, name) >= least, name, f"at least {least}")


def read_yaml(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; safe types only, no aliases, size and depth capped.

    Raises:
        ConfigError: ``config.no_file``, ``config.bad_yaml``.
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise _bad_yaml(str(path), f"it is larger than {_MAX_BYTES} bytes")
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad_yaml(str(path), "it is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(
            "config.no_file", f"The settings file {path} cannot be read: {error.strerror}.", ""
        ) from error
    values = _parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise _bad_yaml(str(path), "it holds no mapping of keys to values")
    return values


class _Loader(yaml.SafeLoader):
    """The safe loader, which moreover refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {key!r} is not text")
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        depth = 0
        # The event parser is not recursive, so depth is checked before anything recurses.
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise _bad_yaml(where, f"it is nested deeper than {_MAX_DEPTH} levels")
            if isinstance(event, yaml.AliasEvent):
                raise _bad_yaml(where, "aliases (*name) are not supported")
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise _bad_yaml(where, " ".join(str(error).split())) from error


def _bad_yaml(where: str, why: str) -> ConfigError:
    return ConfigError("config.bad_yaml", f"{where} is not usable YAML: {why}.", "")


def _find_preset(name: str, presets: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    if name not in presets:
        raise ConfigError(
            "config.unknown_preset",
            f"There is no preset {name!r}.{_did_you_mean(name, presets)}",
            f"Known presets: {', '.join(presets) or 'none'}.",
        )
    return presets[name]


def _merge(into: dict[str, Any], values: Mapping[str, Any], where: str = "") -> None:
    """Merge ``values`` into ``into``; mappings go deep, dotted keys are short for nested ones."""
    for key, value in values.items():
        head, dot, rest = str(key).partition(".")
        if dot:
            value = {rest: value}
        if isinstance(value, Mapping):
            below = into.get(head)
            into[head] = below if isinstance(below, dict) else {}
            _merge(into[head], value, f"{where}{head}.")
        else:
            into[head] = value


def _build(cls: type[_C], values: Mapping[str, Any], prefix: str, known: Sequence[str]) -> _C:
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(typing.cast(Any, cls)) if f.init]
    for key in values:
        if key not in names:
            raise ConfigError(
                "config.unknown_key",
                f"Unknown setting {prefix + key!r}.{_did_you_mean(prefix + key, known)}",
                f"Settings here: {', '.join(prefix + name for name in names)}.",
            )
    converted = {k: _convert(v, hints[k], prefix + k, known) for k, v in values.items()}
    try:
        return cls(**converted)
    except ConfigError:
        raise
    except (ValueError, TypeError) as error:
        place = prefix.rstrip(".") or cls.__name__
        raise ConfigError("config.bad_value", f"{place}: {error}", "") from error


def _convert(value: Any, hint: Any, where: str, known: Sequence[str]) -> Any:
    """Return ``value`` as the type ``hint`` asks for, or raise."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, choices, where, known)
    if origin is Literal:
        return _convert_literal(value, choices, where)
    if hint is str and isinstance(value, str):
        return str(value)
    if hint is Path and isinstance(value, str):
        return Path(str(value))
    if isinstance(value, _Text):
        value = _parse_yaml(value, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return _build(typing.cast(type, hint), value, where + ".", known)
    elif origin is tuple:
        return _convert_tuple(value, choices, where, known)
    elif hint is float:
        return _convert_float(value, where)
    elif hint in (bool, int) and type(value) is hint:
        return value
    raise _bad_type(value, hint, where)


def _convert_union(value: Any, choices: Sequence[Any], where: str, known: Sequence[str]) -> Any:
    plain = _parse_yaml(value, where) if isinstance(value, _Text) else value
    if plain is None and type(None) in choices:
        return None
    rest = [choice for choice in choices if choice is not type(None)]
    if len(rest) == 1:
        return _convert(value, rest[0], where, known)
    for choice in rest:
        try:
            return _convert(value, choice, where, known)
        except ConfigError:
            continue
    raise _bad_type(plain, " or ".join(map(_type_name, choices)), where)


def _convert_literal(value: Any, choices: Sequence[Any], where: str) -> Any:
    readings = [str(value), _parse_yaml(value, where)] if isinstance(value, _Text) else [value]
    for reading in readings:
        for choice in choices:
            if choice == reading and type(choice) is type(reading):
                return choice
    raise ConfigError(
        "config.bad_value",
        f"{where} is {value!r}.{_did_you_mean(str(value), [str(c) for c in choices])}",
        f"Choose one of: {', '.join(map(str, choices))}.",
    )


def _convert_tuple(value: Any, choices: Sequence[Any], where: str, known: Sequence[str]) -> Any:
    if not isinstance(value, list | tuple):
        raise _bad_type(value, tuple, where)
    if len(choices) == 2 and choices[1] is Ellipsis:
        choices = [choices[0]] * len(value)
    if len(value) != len(choices):
        message = f"{where} has {len(value)} entries instead of {len(choices)}."
        raise ConfigError("config.bad_value", message, "")
    pairs = enumerate(zip(value, choices, strict=True))
    return tuple(_convert(v, hint, f"{where}[{i}]", known) for i, (v, hint) in pairs)


def _convert_float(value: Any, where: str) -> float:
    try:
        if type(value) in (int, float):
            return float(value)
        # YAML 1.1 reads 1e-3 (no point) as text; nobody means text by it.
        if type(value) is str and value[:1] in "+-.0123456789":
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise _bad_type(value, float, where)


def _bad_type(value: Any, hint: Any, where: str) -> ConfigError:
    wanted = hint if isinstance(hint, str) else _type_name(hint)
    try:
        shown = repr(value)
    except ValueError:
        # a whole number of more digits than Python prints
        shown = "a huge number"
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    message = f"{where} is {shown} ({type(value).__name__}); it must be {wanted}."
    return ConfigError("config.bad_type", message, "")


def _type_name(hint: Any) -> str:
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _did_you_mean(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _keys(cls: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings of a class."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _keys(hints[field.name], f"{prefix}{field.name}.")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
