"""Folders of Stable Diffusion's family as people have them: read, followed, or refused in time."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import urban_families

from apps.cli import main
from geo3d.errors import CheckpointError, ConfigError, Geo3dError
from geo3d.layout.classes import PALETTE
from geo3d.layout.layout import box, slab
from scenes.urban.conditions import LayoutMaps, condition_image
from scenes.urban.guidance import Guidance, SampleConfig
from scenes.urban.lgvsd import LgvsdConfig, Views, distil, draw
from scenes.urban.teachers.checks import check_teacher
from scenes.urban.teachers.control import ADE20K, SKY, shown_condition
from scenes.urban.teachers.convert_controlnet import convert_controlnet
from scenes.urban.teachers.files import check_folder, weights_variant
from scenes.urban.teachers.folder import read_teacher
from scenes.urban.teachers.savings import Savings
from scenes.urban.tracker import new_tracker

TINY = (
    *("views.spacing=100", "views.size=8", "sampling.steps=1", "fit.steps_per_view=1"),
    *("fit.rays=16", "fit.rounds=1", "outputs.frames=0", "outputs.voxel=0", "outputs.points=0"),
    *("outputs.measured=0", "fields.samples=2", "fields.stuff.levels=2", "fields.objects.levels=2"),
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def condition(guidance: Guidance) -> torch.Tensor:
    size = guidance.condition_size
    label = np.full((size, size), 5, np.int8)
    label[: size // 2] = -1
    depth = np.where(label < 0, -1, np.linspace(5, 50, size, dtype=np.float32))
    maps = LayoutMaps(depth.astype(np.float32), label, label.astype(np.int32))
    return torch.from_numpy(condition_image(maps, size))[None]


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("family", urban_families.FAMILIES)
def test_every_family_draws_follows_and_is_distilled(
    tmp_path: Path, family: str, channels: int
) -> None:
    """With a ControlNet of an image, or of a layout (case `controlnet3`)."""
    folder = urban_families.write(tmp_path / "sd", family, channels)
    side = tmp_path / "sd-controlnet"
    for place in (folder, side):
        urban_families.rename_weights(place)
    guidance = Guidance.from_folder(folder, side, Savings(chunk=1), needs_layout=True)
    config = SampleConfig(steps=2, guidance_scale=1.0 if family == "turbo" else 3.0)
    given = condition(guidance)
    images = guidance.sample(given, "a street", config, generator=seeded())
    assert images.shape == (1, 3, 8, 8) and bool(torch.isfinite(images).all())
    other = guidance.sample(given.flip(2), "a street", config, generator=seeded())
    assert (other - images).abs().max() > 1e-4
    said = guidance.sample(given, "snow", config, generator=seeded())
    assert (said - images).abs().max() > 1e-6
    rgb = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    tokens, null = guidance.tokens("a street"), guidance.tokens("")
    views = Views(given, tokens, null, torch.zeros(1, 16))
    settings = LgvsdConfig(pairs=1, tracker_from=0.0, tracker_detail=0)
    for kind in ("low_rank", "copy"):
        tracker = new_tracker(kind, guidance.unet, seeded())
        draws = draw(guidance, settings, 1, 0.5, seeded())
        distil(guidance, tracker, rgb, views, draws, settings).loss.backward()
        assert rgb.grad is not None and bool(torch.isfinite(rgb.grad).all())
        assert any(p.grad is not None for p in tracker.parameters())


def test_the_whole_text_and_the_size_reach_sdxl(tmp_path: Path) -> None:
    folder = urban_families.write(tmp_path / "sd", "sdxl")
    guidance = Guidance.from_folder(folder, tmp_path / "sd-controlnet")
    tokens = guidance.tokens(["a street", ""])
    assert tokens.shape == (2, 7, 2 * urban_families.WIDTH)
    assert not tokens[1].any() and tokens[0, 6, : urban_families.WIDTH].abs().min() > 0
    assert not tokens[0, 6, urban_families.WIDTH :].any()
    z, t = torch.randn(1, 4, 4, 4, generator=seeded()), torch.tensor([500])
    with torch.no_grad():
        found = guidance.output(z, t, tokens[:1])
        by_hand = guidance.unet(
            z,
            t,
            encoder_hidden_states=tokens[:1, :6],
            added_cond_kwargs={
                "text_embeds": tokens[:1, 6, : urban_families.WIDTH],
                "time_ids": torch.tensor([[8, 8, 0, 0, 8, 8]]),
            },
        ).sample
    torch.testing.assert_close(found, by_hand)


def test_half_precision_and_slices_are_settings(tmp_path: Path) -> None:
    folder = urban_families.write(tmp_path / "sd")
    savings = Savings("bfloat16", slice_attention=True, slice_autoencoder=True)
    half = Guidance.from_folder(folder, tmp_path / "sd-controlnet", savings)
    assert half.unet.dtype == half.controlnet.dtype == torch.bfloat16
    assert half.vae.dtype == torch.float32 and half.vae.use_slicing
    images = half.sample(condition(half), "a street", SampleConfig(steps=1), generator=seeded())
    assert images.dtype == torch.float32 and bool(torch.isfinite(images).all())


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(tmp_path: Path) -> None:
    """Also by a link to it (case `hf-folder`)."""
    plain = urban_families.write(tmp_path / "sd")
    snapshot = urban_families.as_cache(plain, tmp_path / "cache")
    side = urban_families.as_cache(tmp_path / "sd-controlnet", tmp_path / "cache", "models--org--c")
    guidance = Guidance.from_folder(plain, tmp_path / "sd-controlnet")
    wanted = guidance.sample(None, "snow", SampleConfig(steps=1), generator=seeded())
    (tmp_path / "link").symlink_to(snapshot)
    whole = tmp_path / "cache" / "models--org--sd"
    for folder, control in ((snapshot, side), (whole, side), (tmp_path / "link", side)):
        found = Guidance.from_folder(folder, control)
        images = found.sample(None, "snow", SampleConfig(steps=1), generator=seeded())
        torch.testing.assert_close(images, wanted)
    (tmp_path / "cache" / "models--org--sd" / "refs" / "main").unlink()
    assert check_folder(tmp_path / "cache" / "models--org--sd") == snapshot
    (snapshot.parent / "4567").mkdir()
    with pytest.raises(CheckpointError, match=r"teacher.no_folder"):
        check_folder(tmp_path / "cache" / "models--org--sd")


@pytest.mark.parametrize("target", ["/etc/hosts", "../../../other/x.json", "../nothing", "/etc"])
def test_links_that_leave_or_lead_nowhere_are_refused(tmp_path: Path, target: str) -> None:
    snapshot = tmp_path / "models--o--n" / "snapshots" / "1"
    (snapshot / "unet").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.json").write_text("{}")
    (snapshot / "unet" / "config.json").symlink_to(target)
    with pytest.raises(CheckpointError, match=r"teacher.link"):
        check_folder(snapshot)


def test_a_link_to_code_in_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "b.safetensors").symlink_to("a.bin")
    with pytest.raises(CheckpointError, match=r"teacher.unsafe_file"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["m.safetensors", "m.fp16.safetensors"], None),
        (["m.safetensors.index.json", "m-00001-of-00002.safetensors"], None),
        (["m.non_ema.safetensors", "m.fp16.safetensors", "m.bf16.safetensors"], "fp16"),
        (["m.fp16-00001-of-00002.safetensors", "m.safetensors.index.fp16.json"], "fp16"),
        (["m.non_ema.safetensors", "config.json"], "non_ema"),
    ],
)
def test_names_of_weights(tmp_path: Path, names: list[str], variant: str | None) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert weights_variant(tmp_path, "m") == variant


def test_a_folder_without_safetensors_says_how_to_make_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(CheckpointError, match=r"teacher.missing_part"):
        weights_variant(tmp_path)


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("unet/config.json", {"in_channels": 9}, "teacher.bad_part"),
    ("unet/config.json", {"class_embed_type": "timestep"}, "teacher.wrong_family"),
    ("unet/config.json", {"addition_embed_type": "image"}, "teacher.wrong_family"),
    ("unet/config.json", {"encoder_hid_dim_type": "text_proj"}, "teacher.wrong_family"),
    ("unet/config.json", {"_class_name": "UNetMotionModel"}, "teacher.wrong_family"),
    ("unet/config.json", {"cross_attention_dim": 64}, "teacher.bad_part"),
    ("vae/config.json", {"latent_channels": 16}, "teacher.bad_part"),
    ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "teacher.wrong_family"),
    ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchX"}, "teacher.wrong_family"),
    ("../sd-controlnet/config.json", {"conditioning_channels": 6}, "teacher.wrong_controlnet"),
    ("../sd-controlnet/config.json", {"cross_attention_dim": 9}, "teacher.wrong_controlnet"),
    ("../sd-controlnet/config.json", {"global_pool_conditions": True}, "teacher.wrong_controlnet"),
    (
        "../sd-controlnet/config.json",
        {"_class_name": "ControlNetUnion"},
        "teacher.wrong_controlnet",
    ),
    ("../sd-controlnet/config.json", {"_name_or_path": "x/sd-canny"}, "teacher.wrong_controlnet"),
]


@pytest.mark.parametrize(("part", "changes", "code"), REFUSED)
def test_what_cannot_work_is_refused_before_weights_are_read(
    tmp_path: Path, part: str, changes: dict[str, Any], code: str
) -> None:
    folder = urban_families.write(tmp_path / "sd")
    change(folder / part, **changes)
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"nothing that could be read")
    with pytest.raises(Geo3dError, match=re.escape(code)):
        check_teacher(folder, tmp_path / "sd-controlnet")


@pytest.mark.parametrize(
    "part", ["sd/unet", "sd/vae", "sd/text_encoder", "sd-controlnet"], ids=lambda p: p[3:]
)
def test_weights_that_are_none_are_told_before_any_is_read(tmp_path: Path, part: str) -> None:
    """A clone without git-lfs, a copy cut off, a file forgotten (case `doctor_lfs`)."""
    folder = urban_families.write(tmp_path / "sd")
    (path,) = (tmp_path / part).glob("*.safetensors")
    whole = path.read_bytes()
    for content, code in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "checkpoint.pointer"),
        (whole[:-8], "checkpoint.damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(code)):
            check_teacher(folder, tmp_path / "sd-controlnet")
    # a variant that is not read may be a note
    path.with_suffix(".fp16.safetensors").write_bytes(whole[:9])
    path.write_bytes(whole)
    check_teacher(folder, tmp_path / "sd-controlnet")
    path.unlink()
    path.with_suffix(".fp16.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"teacher\.missing_part"):
        check_teacher(folder, tmp_path / "sd-controlnet")


def test_a_pipeline_without_unet_is_named(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    with pytest.raises(CheckpointError, match=r"teacher.wrong_family"):
        check_teacher(tmp_path)
    (tmp_path / "file.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"teacher.not_a_folder"):
        check_teacher(tmp_path / "file.safetensors")


@pytest.mark.parametrize(
    ("name", "asked", "kind"),
    [
        ("control_v11f1p_sd15_depth", "auto", "depth"),
        ("sd-controlnet-seg", "auto", "segmentation"),
        ("controlnet", "auto", "segmentation"),
        ("controlnet", "depth", "depth"),
        ("sd-controlnet-canny", "segmentation", "segmentation"),
    ],
)
def test_what_a_public_controlnet_is_shown(
    tmp_path: Path, name: str, asked: Any, kind: str
) -> None:
    """Three channels of an image (case `controlnet3`)."""
    folder = urban_families.write(tmp_path / "sd", name=name)
    parts = read_teacher(folder, tmp_path / f"sd-{name}", control_input=asked)
    assert parts.control_input == kind
    assert Guidance(parts).control_input == kind


def test_inputs_that_do_not_fit_the_channels_are_refused(tmp_path: Path) -> None:
    folder = urban_families.write(tmp_path / "sd", channels=4)
    with pytest.raises(ConfigError, match=r"guidance.wrong_input"):
        read_teacher(folder, tmp_path / "sd-controlnet", control_input="depth")
    other = urban_families.write(tmp_path / "other", channels=3)
    with pytest.raises(ConfigError, match=r"guidance.wrong_input"):
        read_teacher(other, tmp_path / "other-controlnet", control_input="layout")


def test_conditions_of_three_channels_by_hand() -> None:
    label = np.array([[-1, 5], [10, 0]], np.int8)
    depth = np.array([[-1, 10], [20, 40]], np.float32)
    given = torch.from_numpy(condition_image(LayoutMaps(depth, label, label.astype(np.int32))))[
        None
    ]
    shown = shown_condition(given, "segmentation")[0].permute(1, 2, 0) * 255
    wanted = [[SKY, ADE20K[5]], [ADE20K[10], ADE20K[0]]]
    torch.testing.assert_close(shown, torch.tensor(wanted, dtype=torch.float32))
    near = shown_condition(given, "depth")[0]
    torch.testing.assert_close(near, torch.tensor([[0.0, 1.0], [0.5, 0.25]]).expand(3, -1, -1))
    assert shown_condition(given, "layout") is given
    assert set(ADE20K) == set(range(len(PALETTE)))


def first_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights by the names of the first ControlNets, for the network of these tests."""
    moved = {}
    for name, values in state.items():
        for ours, theirs in (
            ("time_embedding.linear_1", "time_embed.0"),
            ("time_embedding.linear_2", "time_embed.2"),
            ("conv_in", "input_blocks.0.0"),
            ("controlnet_cond_embedding.conv_in", "input_hint_block.0"),
            ("controlnet_cond_embedding.conv_out", "input_hint_block.14"),
            ("controlnet_cond_embedding.blocks.0", "input_hint_block.2"),
            ("controlnet_cond_embedding.blocks.1", "input_hint_block.4"),
            ("controlnet_mid_block", "middle_block_out.0"),
            *((f"controlnet_down_blocks.{i}", f"zero_convs.{i}.0") for i in range(9)),
            *(
                (f"{place}.{part}", f"{old}.{was}")
                for place, old in (
                    ("down_blocks.0.resnets.0", "input_blocks.1.0"),
                    ("down_blocks.1.resnets.0", "input_blocks.3.0"),
                    ("mid_block.resnets.0", "middle_block.0"),
                    ("mid_block.resnets.1", "middle_block.2"),
                )
                for part, was in (
                    ("norm1", "in_layers.0"),
                    ("conv1", "in_layers.2"),
                    ("time_emb_proj", "emb_layers.1"),
                    ("norm2", "out_layers.0"),
                    ("conv2", "out_layers.3"),
                    ("conv_shortcut", "skip_connection"),
                )
            ),
            ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
            ("down_blocks.0.attentions.0", "input_blocks.1.1"),
            ("mid_block.attentions.0", "middle_block.1"),
        ):
            if name.startswith(f"{ours}."):
                moved[f"control_model.{theirs}{name.removeprefix(ours)}"] = values
                break
        else:
            raise AssertionError(name)
    return moved


@pytest.mark.parametrize("form", ["own", "first", "safetensors"])
def test_a_controlnet_in_one_file_becomes_a_folder(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = urban_families.write(tmp_path / "sd", channels=None)
    from safetensors.torch import save_file

    made = urban_families.controlnet(read_teacher(folder).unet)
    # the first ControlNets see through seven layers; a folder made here has the usual widths
    from diffusers import ControlNetModel

    made = ControlNetModel.from_unet(read_teacher(folder).unet, conditioning_channels=3)
    state = {name: values.clone() for name, values in made.state_dict().items()}
    file = tmp_path / "control_seg.pth"
    if form == "first":
        blocks = {
            f"control_model.input_hint_block.{2 * (i + 1)}.{part}": state.pop(
                f"controlnet_cond_embedding.blocks.{i}.{part}"
            )
            for i in range(6)
            for part in ("weight", "bias")
        }
        torch.save({**first_names(state), **blocks}, file)
    elif form == "own":
        torch.save({"state_dict": {f"control_model.{k}": v for k, v in state.items()}}, file)
    else:
        file = file.with_suffix(".safetensors")
        save_file(state, file)
    given = ["scene", "straight", "--teacher", str(folder), "--controlnet", str(file)]
    assert main([*given, "--out", str(tmp_path / "runs")]) == 3
    said = capsys.readouterr().err
    assert "teacher.controlnet_file" in said and not (tmp_path / "runs").exists()
    out = tmp_path / "control_seg"
    assert f"geo3d convert {file} --unet {folder} --out {out}" in said.replace("\n", " ")
    assert main(["convert", str(file), "--unet", str(folder), "--out", str(out)]) == 0
    read = read_teacher(folder, out)
    assert read.control_input == "segmentation"
    for name, values in made.state_dict().items():
        assert torch.equal(read.controlnet.state_dict()[name], values), name
    with pytest.raises(CheckpointError, match=r"teacher.wrong_controlnet"):
        save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
        convert_controlnet(tmp_path / "other.safetensors", folder, tmp_path / "bad")


def test_no_controlnet_is_refused_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = urban_families.write(tmp_path / "sd", channels=None)
    given = ["scene", "straight", "--teacher", str(folder), "--out", str(tmp_path / "runs")]
    assert main(given) == 3
    assert "[teacher.no_controlnet]" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    check_teacher(folder, needs_layout=False)


@pytest.mark.parametrize("style", ["it's 5: 'snow' \"all\" # day", "yes", "007"])
def test_flags_reach_the_settings_as_they_are(
    tmp_path: Path, style: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """No quotes of YAML come with them (case `scene-teacher-quoted`)."""
    folder = urban_families.write(tmp_path / "my sd's: #1")
    side = tmp_path / "my sd's: #1-controlnet"
    street = tmp_path / "street.json"
    from geo3d.layout.layout import Layout
    from scenes.urban.layout_json import save_layout

    drive = np.tile(np.eye(4), (2, 1, 1))
    drive[:, 1, 3], drive[1, 2, 3] = -1.5, 5.0
    rails = np.array([[-4.0, 0.0, -4.0], [-4.0, 0.0, 30.0]])
    road = slab("road", "road", rails, rails + np.array([8.0, 0, 0]))
    save_layout(Layout("s", (road, box("h", "building", (8, -3, 12), (4, 6, 8))), drive), street)
    monkeypatch.chdir(tmp_path)
    given = ["scene", str(street), "--teacher", folder.name, "--controlnet", side.name]
    changes = [word for one in TINY for word in ("--set", one)]
    tail = ["--style", style, "--preset", "smoke", *changes, "--device", "cpu", "--json", "--quiet"]
    assert main([*given, *tail, "--out", str(tmp_path / "runs")]) == 0
    run = Path(json.loads(capsys.readouterr().out)["run"])
    from geo3d.config import load_config
    from scenes.urban.config import SceneConfig

    config = load_config(SceneConfig, run / "config.yaml")
    assert (config.prompt, config.teacher) == (style, str(folder))
    assert config.controlnet == str(side)
    sums = json.loads((run / "teacher.json").read_text())
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert sums[str(weights)] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert len(sums) == 4
