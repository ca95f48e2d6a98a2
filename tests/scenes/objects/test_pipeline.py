"""Whole pipelines with tiny random networks: images in, objects out, folders back and forth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from object_pipelines import cut_out_image, tiny_pipeline

from geo3d.errors import (
    Cancelled,
    CheckpointError,
    ConfigError,
    Geo3dError,
    InputError,
    NumericalError,
)
from scenes.objects.folder_check import missing_parts
from scenes.objects.pipeline import GenerateConfig, Generated, Pipeline, load_pipeline
from scenes.objects.pipeline_folder import read_pipeline
from scenes.objects.samplers import SamplerConfig

ALL = GenerateConfig(outputs=("mesh", "gaussian", "radiance"))
LATENT = GenerateConfig(outputs=())
GAUSSIANS = GenerateConfig(outputs=("gaussian",))
IMAGES = [cut_out_image(), cut_out_image((20, 90, 220)), cut_out_image((10, 200, 10))]


def tensors(made: Generated) -> dict[str, torch.Tensor]:
    assert made.latent is not None
    found = {"z": made.structure, "coords": made.latent.coords, "feats": made.latent.feats}
    for name, part in (("mesh", made.mesh), ("gs", made.gaussian), ("rf", made.radiance)):
        if part is not None:
            values = vars(part).items()
            found |= {f"{name}.{k}": v for k, v in values if isinstance(v, torch.Tensor)}
    return found


def assert_same(a: Generated, b: Generated) -> None:
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys() and len(left) >= 3
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def test_an_object_comes_out() -> None:
    batch = tiny_pipeline().generate(IMAGES[:1], [7], ALL)
    (made,) = batch.objects
    assert made.seed == 7 and not made.is_empty
    assert made.mesh is not None and made.gaussian is not None and made.radiance is not None
    assert made.structure.shape == (4, 4, 4, 4)
    assert set(batch.seconds) == {
        "picture",
        "loading",
        "structure",
        "voxels",
        "latent",
        "mesh",
        "gaussian",
        "radiance",
    }
    assert batch.calls == {"structure": 4, "latent": 4}


def test_noise_is_drawn_in_the_published_order() -> None:
    pipeline, drawn = tiny_pipeline(), []
    for key in ("sparse_structure_flow_model", "slat_flow_model"):
        network = pipeline.networks[key]
        assert isinstance(network, torch.nn.Module)
        network.register_forward_pre_hook(lambda _module, inputs: drawn.append(inputs[0]))
    (made,) = pipeline.generate(IMAGES[:1], [3], LATENT).objects
    torch.manual_seed(3)
    assert torch.equal(drawn[0], torch.randn(1, 4, 4, 4, 4))
    assert made.latent is not None
    assert torch.equal(drawn[4].feats, torch.randn(len(made.latent), 4))


def test_a_batch_is_its_objects_one_by_one() -> None:
    pipeline = tiny_pipeline()
    images, seeds = [*IMAGES, IMAGES[0]], [0, 1, 2, 3]
    together = pipeline.generate(images, seeds, GAUSSIANS).objects
    for image, seed, made in zip(images, seeds, together, strict=True):
        assert_same(pipeline.generate([image], [seed], GAUSSIANS).objects[0], made)


@pytest.mark.parametrize("branches", [False, True])
def test_passing_together_changes_only_rounding(branches: bool) -> None:
    pipeline, seeds = tiny_pipeline(), [0, 1, 2, 3]
    singly = pipeline.generate(IMAGES[:1], seeds, LATENT).objects
    config = GenerateConfig(outputs=(), batch=3, together=branches)
    batch = pipeline.generate(IMAGES[:1], seeds, config)
    assert batch.calls["structure"] == (4 if branches else 8)
    for a, b in zip(singly, batch.objects, strict=True):
        torch.testing.assert_close(a.structure, b.structure, rtol=1e-4, atol=1e-5)
        assert a.latent is not None and b.latent is not None
        assert torch.equal(a.latent.coords, b.latent.coords)
        torch.testing.assert_close(a.latent.feats, b.latent.feats, rtol=1e-4, atol=1e-4)


def test_a_saved_pipeline_gives_the_same_object(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    before = pipeline.generate(IMAGES[:1], [5], ALL).objects[0]
    pipeline.save(tmp_path / "a")
    loaded = load_pipeline(tmp_path / "a")
    assert_same(before, loaded.generate(IMAGES[:1], [5], ALL).objects[0])
    lean = load_pipeline(tmp_path / "a", low_memory=True)
    assert_same(before, lean.generate(IMAGES[:1], [5], ALL).objects[0])
    assert lean.kept == [] and len(loaded.kept) == 6
    assert missing_parts(tmp_path / "a", outputs=("mesh", "gaussian", "radiance")) == []


def test_a_loaded_pipeline_is_saved_again(tmp_path: Path) -> None:
    tiny_pipeline().save(tmp_path / "a")
    loaded = load_pipeline(tmp_path / "a")
    with pytest.raises(ConfigError) as error:
        loaded.save(tmp_path / "b")
    assert error.value.code == "pipeline.foreign_encoder"
    loaded.save(tmp_path / "b", encoder="dinov2_vitl14_reg")
    first, second = read_pipeline(tmp_path / "a"), read_pipeline(tmp_path / "b")
    assert first.structure == second.structure and first.mean == second.mean
    (wanted, library) = missing_parts(tmp_path / "b")[0], missing_parts(tmp_path / "b")[-1]
    assert wanted.what.endswith("dinov2_vitl14_reg/config.json") and library.hint


@pytest.mark.parametrize("torso", [torch.float16, torch.bfloat16])
def test_half_torsos_run_and_leave_the_masters_alone(torso: torch.dtype) -> None:
    whole = tiny_pipeline().generate(IMAGES[:1], [0], LATENT).objects[0]
    pipeline = tiny_pipeline(torso=torso)
    half = pipeline.generate(IMAGES[:1], [0], LATENT).objects[0]
    error = (half.structure - whole.structure).norm() / whole.structure.norm()
    assert 0 < error < 0.03
    for network in pipeline.networks.values():
        assert isinstance(network, torch.nn.Module)
        assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_several_views_of_one_object() -> None:
    pipeline = tiny_pipeline()
    one = pipeline.generate(IMAGES[:1], [0], LATENT).objects[0]
    twice = pipeline.generate_from_views([IMAGES[0]] * 2, 0, LATENT).objects[0]
    torch.testing.assert_close(one.structure, twice.structure, rtol=1e-5, atol=1e-6)
    mixed = pipeline.generate_from_views(IMAGES[:2], 0, LATENT).objects[0]
    assert not torch.allclose(one.structure, mixed.structure)


def without_voxels() -> Pipeline:
    pipeline = tiny_pipeline()
    decoder = pipeline.networks["sparse_structure_decoder"]
    assert isinstance(decoder, torch.nn.Module)
    decoder.get_submodule("out_layer.2").bias.data.fill_(-1e6)  # type: ignore[union-attr]
    return pipeline


def test_an_empty_structure_is_named_or_kept() -> None:
    with pytest.raises(NumericalError) as error:
        without_voxels().generate(IMAGES[:1], [4, 5], ALL)
    assert error.value.code == "generate.empty_structure" and "4, 5" in error.value.message
    kept = GenerateConfig(on_empty="keep")
    (made,) = without_voxels().generate(IMAGES[:1], [4], kept).objects
    assert made.is_empty and made.mesh is None


def test_cancelling_reaches_every_stage() -> None:
    pipeline, stages = tiny_pipeline(), ["picture", "structure", "voxels", "latent", "gaussian"]
    seen: list[str] = []
    pipeline.generate(IMAGES[:1], [0], GAUSSIANS, lambda event: seen.append(str(event["stage"])))
    assert list(dict.fromkeys(seen)) == stages

    for stage in stages:

        def stop(event: Mapping[str, Any], stage: str = stage) -> None:
            if event["stage"] == stage:
                raise Cancelled()

        with pytest.raises(Cancelled):
            pipeline.generate(IMAGES[:1], [0], GAUSSIANS, stop)


def test_settings_of_the_call_win() -> None:
    once = SamplerConfig(steps=1, rescale_t=1.0, guidance_scale=None)
    config = GenerateConfig(structure=once, latent=once, outputs=())
    assert tiny_pipeline().generate(IMAGES[:1], [0], config).calls == {
        "structure": 1,
        "latent": 1,
    }


def test_mistakes_are_named() -> None:
    pipeline = tiny_pipeline()
    tokens = torch.zeros(1, 4, 16)
    cases: list[tuple[str, type[Geo3dError], Any]] = [
        ("generate.wrong_count", InputError, lambda: pipeline.generate(IMAGES, [0, 1])),
        ("generate.wrong_count", InputError, lambda: pipeline.generate_from_views([], 0)),
        (
            "generate.wrong_count",
            InputError,
            lambda: pipeline.generate_from_tokens(tokens, [0, 1]),
        ),
        (
            "config.bad_value",
            ConfigError,
            lambda: pipeline.generate_from_tokens(tokens, [0], GenerateConfig(batch=0)),
        ),
    ]
    for code, kind, call in cases:
        with pytest.raises(kind) as error:
            call()
        assert error.value.code == code
    del pipeline.networks["slat_decoder_rf"]
    with pytest.raises(ConfigError) as missing:
        pipeline.generate_from_tokens(tokens, [0], ALL)
    assert missing.value.code == "generate.no_network"


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    assert "pipeline.json" in missing_parts(tmp_path)[0].what
    tiny_pipeline().save(tmp_path)
    (tmp_path / "ckpts" / "slat_flow_model.safetensors").unlink()
    (tmp_path / "ckpts" / "slat_decoder_gs.json").write_text("{")
    what = [part.what for part in missing_parts(tmp_path)]
    assert [Path(name).name for name in what] == [
        "slat_flow_model.safetensors",
        "slat_decoder_gs.json",
    ]
    path = tmp_path / "pipeline.json"
    content = json.loads(path.read_text())

    def code(change: Any) -> str:
        changed = json.loads(json.dumps(content))
        change(changed["args"])
        path.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError) as error:
            read_pipeline(tmp_path)
        return error.value.code

    assert code(lambda args: args.pop("slat_sampler")) == "pipeline.bad_file"
    assert code(lambda args: args["slat_normalization"].update(std=[1.0])) == "pipeline.bad_file"
    assert code(lambda args: args["models"].update(x="../../x")) == "pipeline.outside"
    path.write_text("[]")
    with pytest.raises(CheckpointError) as error:
        read_pipeline(tmp_path)
    assert error.value.code == "object_model.unreadable"
