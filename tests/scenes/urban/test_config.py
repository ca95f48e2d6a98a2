"""Settings of a street scene: one class, and presets that mean what they say."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from geo3d.config import load_config
from geo3d.errors import BackendUnavailable, ConfigError
from geo3d.fields.hashgrid_gpu import can_encode
from geo3d.fields.levels import row_count
from geo3d.layout.layout import Layout
from scenes.urban.config import PRESETS, FieldConfig, FieldsConfig, SceneConfig
from scenes.urban.constraints import ConstraintConfig
from scenes.urban.guidance import SampleConfig
from scenes.urban.lgvsd import LgvsdConfig
from scenes.urban.resample import ResampleConfig
from scenes.urban.rollback import RollbackConfig
from scenes.urban.scene import Scene
from scenes.urban.teachers.savings import Savings

PUBLISHED = load_config(SceneConfig, preset="published")


def test_the_published_fields_are_those_of_the_release() -> None:
    """The preset is the one definition (case `published_preset`)."""
    fields = PUBLISHED.fields
    for field, rows in ((fields.stuff, 14_995_560), (fields.objects, 152_376)):
        assert row_count(field.grid(fields.convention)) == rows
        assert (field.levels, field.features, field.base, field.finest) == (10, 4, 16, 8192)
        assert (field.hidden, field.bottleneck, field.density_shift) == (64, 128, -1.0)
    assert (fields.cell, fields.band, fields.samples) == (400.0, 0.0, 32)
    assert (fields.constrain, fields.falloff, fields.sky) == ("hull", None, "grid")
    assert fields.compat and fields.multisample and not fields.empty_background
    assert fields.convention == "gridencoder" and fields.semantics == 0


def test_the_published_distillation_is_that_of_the_release() -> None:
    given = asdict(PUBLISHED.distil)
    assert given == {
        "objective": "vsd",
        "use_layout": True,
        "pairs": 1,
        "guidance_scale": 7.5,
        "tracker_guidance_scale": 1.0,
        "tracker": "low_rank",
        "tracker_from": 0.0,
        "tracker_detail": 0,
        "t_range": (0.02, 0.98),
        "t_max_end": None,
        "anneal_after": 0.2,
        "grad_clip": 8.0,
        "conditioning_scale": 1.0,
        "drop_camera": 0.1,
        "compat": True,
    }
    work = PUBLISHED.optimise
    assert PUBLISHED.method == "lgvsd"
    assert (work.learning_rate, work.tracker_rate, work.distortion) == (1e-3, 1e-3, 0.0)
    # no losses but those of distillation, all of it at 256 of 512 pixels
    assert (work.layout_steps, work.coarse, work.fit_rounds) == (0, 1.0, 1)
    weights = PUBLISHED.constraints
    assert weights.density == weights.depth == weights.semantics == 0


def test_the_published_refinement_is_that_of_the_release() -> None:
    fit, sampling = PUBLISHED.fit, PUBLISHED.sampling
    assert sampling == SampleConfig(50, 7.5, shared_noise=False)
    assert round(fit.strength * sampling.steps) == 5 and fit.repeats == 2
    # its round is the second, which halves the rate
    assert (fit.rays, fit.learning_rate / 2, fit.distortion) == (16384, 1e-3, 0.1)


def test_defaults_suit_a_small_teacher() -> None:
    small = LgvsdConfig()
    assert (small.pairs, small.guidance_scale, small.tracker_guidance_scale) == (4, 2.0, 1.0)
    assert (small.tracker, small.tracker_from, small.tracker_detail) == ("auto", 0.5, 7)
    assert (small.t_range, small.t_max_end, small.anneal_after) == ((0.2, 0.8), None, 0.2)
    assert (small.grad_clip, small.conditioning_scale, small.drop_camera) == (8.0, 1.0, 0.1)
    assert small.objective == "vsd" and small.use_layout and not small.compat
    assert SampleConfig() == SampleConfig(25, 1.5, 1.0, shared_noise=True)
    assert Savings() == Savings("float32", False, False, 0)
    assert ConstraintConfig() == ConstraintConfig(1.0, 0.5, 0.1, 1.0, 0.25)
    assert RollbackConfig() == RollbackConfig(50, 50, 10.0, 5, 5, 0.5)
    assert ResampleConfig() == ResampleConfig(SampleConfig(), 0.5, 1)


def test_presets_by_cost_differ_where_they_should() -> None:
    assert list(PRESETS) == ["demo", "cpu", "learned", "learned-cpu", "smoke", "published"]
    rows = {}
    for name in PRESETS:
        config = load_config(SceneConfig, preset=name)
        rows[name] = row_count(config.fields.stuff.grid(config.fields.convention))
        assert config.fields.compat == config.distil.compat == (name == "published")
    assert rows["smoke"] == rows["learned"] < rows["learned-cpu"] < rows["published"]
    assert rows["demo"] == rows["cpu"] < rows["published"]


def test_what_computes_the_hash_grids_is_chosen_and_told() -> None:
    """The fields are computed where a backend can (case `published-cpu`)."""
    layout = Layout("nothing", (), torch.eye(4)[None].numpy())
    assert Scene(FieldsConfig(), layout).backend == "numba"
    assert Scene(FieldsConfig(backend="torch"), layout).backend == "torch"
    with pytest.raises(ConfigError, match=r"convention"):
        load_config(SceneConfig, preset="smoke", overrides=["fields.backend=tinycudann"])
    asked = ["fields.backend=tinycudann", "fields.convention=tcnn"]
    fields = load_config(SceneConfig, preset="smoke", overrides=asked).fields
    grid = FieldConfig().grid("tcnn")
    if can_encode(grid):
        assert Scene(fields, layout).backend == "tinycudann"
    else:
        with pytest.raises(BackendUnavailable, match="tinycudann"):
            Scene(fields, layout)
