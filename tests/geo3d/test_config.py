"""Settings: strict types, near names, sources in order, YAML that cannot harm."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo3d.config import (
    config_from_dict,
    config_hash,
    config_to_dict,
    dump_config,
    load_config,
    read_yaml,
)
from geo3d.errors import ConfigError


@dataclass(frozen=True)
class Guidance:
    scale: float = 2.0
    kind: Literal["sds", "vsd", 3] = "sds"


@dataclass(frozen=True)
class Settings:
    guidance: Guidance = field(default_factory=Guidance)
    steps: int = 5
    fast: bool = False
    name: str = "n"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("a", 0.5)
    limit: float | None = None
    folder: Path = Path("x")
    label: str | None = None
    either: int | str = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps is negative")


PRESETS = {"fast": {"steps": 1, "guidance.scale": 1.0}, "slow": {"guidance": {"scale": 9.0}}}


def failure(*args: Any, **kwargs: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(Settings, *args, **kwargs)
    return caught.value


def test_defaults_preset_file_overrides_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("steps: 2\nguidance: {kind: vsd}\n")
    assert load_config(Settings) == Settings()
    settings = load_config(Settings, file, "fast", ("steps=3", "guidance.scale=4"), presets=PRESETS)
    assert settings == Settings(guidance=Guidance(scale=4.0, kind="vsd"), steps=3)
    assert load_config(Settings, file, "fast", presets=PRESETS).guidance.scale == 1.0


def test_presets_are_found_in_the_module_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, Settings.__module__, SimpleNamespace(PRESETS=PRESETS))
    # Annotations are text and are looked up in the module too, so give them.
    sys.modules[Settings.__module__].__dict__.update(globals())
    assert load_config(Settings, preset="slow").guidance.scale == 9.0


def test_unknown_key_names_the_nearest() -> None:
    error = failure(overrides=("guidance.scal=1",))
    assert error.code == "config.unknown_key" and "Did you mean 'guidance.scale'?" in error.message
    assert failure(overrides=("stepps=1",)).message.endswith("Did you mean 'steps'?")
    assert "guidance.kind" in error.hint


def test_unknown_preset_lists_the_known() -> None:
    error = failure(preset="fasst", presets=PRESETS)
    assert error.code == "config.unknown_preset"
    assert "'fast'" in error.message and "slow" in error.hint


@pytest.mark.parametrize(
    "override",
    [
        "steps=2.5",
        "steps='3'",
        "steps=true",
        "fast=1",
        "fast=maybe",
        "guidance.scale=big",
        "guidance.scale=true",
        "sizes=3",
        "sizes=[1, a]",
        "guidance=3",
        "limit=[1]",
        pytest.param(f"limit=1{'0' * 400}", id="above every float"),
        pytest.param(f"fast=0x{'f' * 5000}", id="more digits than Python prints"),
    ],
)
def test_wrong_types_are_refused(override: str) -> None:
    error = failure(overrides=(override,))
    assert error.code == "config.bad_type" and override.partition("=")[0] in error.message


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("name=on", "name", "on"),
        ("name=12", "name", "12"),
        ("label=null", "label", None),
        ("label=12", "label", "12"),
        ("limit=1e-3", "limit", 1e-3),
        ("limit=null", "limit", None),
        ("limit=3", "limit", 3.0),
        ("limit=.inf", "limit", float("inf")),
        ("sizes=[]", "sizes", ()),
        ("sizes=[7, 8, 9]", "sizes", (7, 8, 9)),
        ("pair=[b, 2]", "pair", ("b", 2.0)),
        ("folder=a/b=c", "folder", Path("a/b=c")),
        ("fast=true", "fast", True),
        ("either=word", "either", "word"),
        ("either=4", "either", 4),
    ],
)
def test_overrides_take_the_type_of_the_field(override: str, key: str, value: object) -> None:
    got = getattr(load_config(Settings, overrides=(override,)), key)
    assert got == value and type(got) is type(value)


def test_literals() -> None:
    assert load_config(Settings, overrides=("guidance.kind=3",)).guidance.kind == 3
    error = failure(overrides=("guidance.kind=vds",))
    assert error.code == "config.bad_value"
    assert "Did you mean" in error.message and "sds, vsd, 3" in error.hint


def test_values_the_class_refuses_name_the_place() -> None:
    error = failure(overrides=("steps=-1",))
    assert error.code == "config.bad_value" and "steps is negative" in error.message
    assert failure(overrides=("pair=[a]",)).code == "config.bad_value"


@pytest.mark.parametrize("text", ["steps", "=3", ""])
def test_bad_overrides(text: str) -> None:
    assert failure(overrides=(text,)).code == "config.bad_override"


@pytest.mark.parametrize(
    "content",
    [
        b"steps: [1",
        b"- 1\n- 2",
        b"just text",
        b"steps: 1\nsteps: 2",
        b"\xff\xfe\x00",
        b"a: &x [1]\nb: *x",
        b"!!python/object/apply:os.system ['true']",
        b"1: 2",
        b"? [a, b]\n: 2",
        b"d: 2001-99-99",
        b"steps: " + b"[" * 50 + b"]" * 50,
        b"steps: " + b"[" * 5000,
        b"n: " + b"9" * 5000,
        b"x: '" + b"a" * (1 << 20) + b"'",
    ],
)
def test_bad_yaml(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    assert failure(file).code == "config.bad_yaml"


def test_no_file_and_empty_file(tmp_path: Path) -> None:
    assert failure(tmp_path / "none.yaml").code == "config.no_file"
    assert failure(tmp_path).code == "config.no_file"
    (tmp_path / "empty.yaml").write_bytes(b"\xef\xbb\xbf# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


SETTINGS = st.builds(
    Settings,
    guidance=st.builds(
        Guidance, scale=st.floats(allow_nan=False), kind=st.sampled_from(["sds", "vsd", 3])
    ),
    steps=st.integers(0, 2**70),
    fast=st.booleans(),
    name=st.text(st.characters(exclude_categories=["Cs"])),
    sizes=st.lists(st.integers()).map(tuple),
    pair=st.tuples(st.sampled_from(["on", "1", "null", "1e3", "~", ""]), st.floats(0, 1e30)),
    limit=st.none() | st.floats(allow_nan=False),
    label=st.none() | st.sampled_from(["null", "x", "3", "yes"]),
)


@given(SETTINGS)
def test_what_is_dumped_is_read_back(settings: Settings) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "c.yaml"
        file.write_text(dump_config(settings), "utf-8")
        again = load_config(Settings, file)
    assert again == settings and config_hash(again) == config_hash(settings)
    assert config_from_dict(Settings, config_to_dict(settings)) == settings


def test_hash_tells_values_apart_and_is_stable() -> None:
    assert config_hash(Settings()) != config_hash(Settings(steps=6))
    # The digest is stored in run folders: a change of it is a change of format.
    text = b'{"kind": "sds", "scale": 2.0}'
    assert config_hash(Guidance()) == hashlib.sha256(text).hexdigest()
