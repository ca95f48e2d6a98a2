"""Settings of matching: defaults are valid, presets load, what makes no sense is refused."""

from __future__ import annotations

import dataclasses

import pytest

from geo3d.config import load_config
from geo3d.errors import ConfigError
from shape_matching.config import PRESETS, MatchConfig


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_load_and_change_only_what_they_name(preset: str) -> None:
    config = load_config(MatchConfig, preset=preset)
    default = MatchConfig()
    for field in dataclasses.fields(MatchConfig):
        value = getattr(config, field.name)
        expected = PRESETS[preset].get(field.name, getattr(default, field.name))
        assert value == (tuple(expected) if isinstance(value, tuple) else expected)


def test_fast_asks_for_less_than_accurate() -> None:
    fast, default, accurate = (
        load_config(MatchConfig, preset=name) for name in ("fast", "default", "accurate")
    )
    assert fast.k_final <= default.k_final <= accurate.k_final
    assert fast.n_finalists <= default.n_finalists <= accurate.n_finalists


def test_settings_are_hashable_and_fixed() -> None:
    assert hash(MatchConfig()) == hash(MatchConfig())
    with pytest.raises(dataclasses.FrozenInstanceError):
        MatchConfig().k_final = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"k_final": 19},
        {"step_final": 0},
        {"n_samples": 0},
        {"n_hypotheses": 0},
        {"n_finalists": -1},
        {"starts": ()},
        {"icp_iterations": -1},
        {"coarse_vertices": 99},
        {"coarse_vertices": 500, "max_vertices": 499},
    ],
    ids=str,
)
def test_senseless_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        MatchConfig(**wrong)  # type: ignore[arg-type]
    assert caught.value.code == "config.bad_value"
    assert next(iter(wrong)) in caught.value.message


def test_unknown_families_are_refused_when_loading() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(MatchConfig, overrides=["starts=[signs, guesses]"])
    assert caught.value.code.startswith("config.")
