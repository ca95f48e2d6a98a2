"""Weights as published: students and DINOv2 put into a folder, and what doctor says of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from object_pipelines import cut_out_image, tiny_networks, tiny_pipeline_folder
from PIL import Image

from apps.cli import main
from geo3d import checkpoints
from scenes.objects.condition import DinoEncoder
from scenes.objects.dino_names import encoder_misfits, torchhub_to_transformers
from scenes.objects.folder_check import missing_parts
from scenes.objects.pipeline import load_pipeline
from scenes.objects.pipeline_folder import read_pipeline

FLOWS = ("sparse_structure_flow_model", "slat_flow_model")


def hub_weights(
    width: int = 64, layers: int = 2, registers: int = 4, gated: bool = False, side: int = 37
) -> dict[str, torch.Tensor]:
    """Return random weights in torch.hub's layout."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, side**2 + 1, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    inner = (int(4 * width * 2 / 3) + 7) // 8 * 8 if gated else 4 * width
    names = ("w12", "w3") if gated else ("fc1", "fc2")
    linear = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        f"mlp.{names[0]}": (inner * (2 if gated else 1), width),
        f"mlp.{names[1]}": (width, inner),
    }
    for i in range(layers):
        for name, shape in linear.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{name}.{k}": (width,) for k in ("weight", "bias")}
        shapes |= {f"blocks.{i}.ls{k}.gamma": (width,) for k in (1, 2)}
    return {n: 0.1 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}


def by_hand(weights: dict[str, torch.Tensor], image: Image.Image, heads: int) -> torch.Tensor:
    """Return the tokens of DINOv2 with torch.hub's own names, step by step."""
    import numpy as np
    import torch.nn.functional as F

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    pixels = (np.asarray(image.convert("RGB"), np.float32) / 255 - mean) / std
    x = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
    w = weights
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14)
    x = torch.cat([w["cls_token"], x.flatten(2).transpose(1, 2)], dim=1) + w["pos_embed"]
    if "register_tokens" in w:
        x = torch.cat([x[:, :1], w["register_tokens"], x[:, 1:]], dim=1)
    width = x.shape[-1]
    for i in range(1 + max(int(n.split(".")[1]) for n in w if n.startswith("blocks."))):
        b = {n.removeprefix(f"blocks.{i}."): t for n, t in w.items() if f"blocks.{i}." in n}

        def linear(name: str, h: torch.Tensor, b: dict = b) -> torch.Tensor:
            return F.linear(h, b[f"{name}.weight"], b[f"{name}.bias"])

        def norm(name: str, h: torch.Tensor, b: dict = b) -> torch.Tensor:
            return F.layer_norm(h, (width,), b[f"{name}.weight"], b[f"{name}.bias"], 1e-6)

        q, k, v = linear("attn.qkv", norm("norm1", x)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + b["ls1.gamma"] * linear("attn.proj", h)
        if "mlp.w12.weight" in b:
            first, second = linear("mlp.w12", norm("norm2", x)).chunk(2, dim=-1)
            h = linear("mlp.w3", F.silu(first) * second)
        else:
            h = linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))
        x = x + b["ls2.gamma"] * h
    return F.layer_norm(x, (width,))


@pytest.mark.parametrize(("registers", "gated", "width"), [(4, False, 128), (0, True, 64)])
def test_dino_of_torchhub_gives_its_own_tokens(
    registers: int, gated: bool, width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the file that torch.hub leaves, with and without --out (case `torchhub_dino`)."""
    weights = hub_weights(width, 2, registers, gated)
    torch.save(weights, tmp_path / "dino_pretrain.pth")
    assert main(["convert", str(tmp_path / "dino_pretrain.pth"), "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["placed"]
    assert part["lacks"] == [] and part["path"] == str(tmp_path / "dino_pretrain")
    image = Image.effect_noise((518, 518), 80).convert("RGB")
    found = DinoEncoder(part["path"]).encode([image])
    wanted = by_hand(weights, image, heads=width // 64)
    assert found.shape == wanted.shape == (1, 1370 + registers, width)
    assert torch.allclose(found, wanted, atol=2e-4)
    named = ["--out", str(tmp_path / "encoder")]
    assert main(["convert", str(tmp_path / "dino_pretrain.pth"), *named]) == 0
    for name in ("config.json", "model.safetensors"):
        made = [(tmp_path / folder / name).read_bytes() for folder in ("encoder", "dino_pretrain")]
        assert made[0] == made[1]


@pytest.mark.parametrize(("width", "layers", "gated"), [
    (384, 12, False), (768, 12, False), (1024, 24, False), (1536, 40, True),
])  # fmt: skip
@pytest.mark.parametrize("registers", [0, 4])
def test_all_sizes_of_dino_have_the_entries_of_transformers(
    width: int, layers: int, gated: bool, registers: int
) -> None:
    with torch.device("meta"):
        small = hub_weights(64, 1, registers, gated)
    names = {n: t for n, t in small.items() if not n.startswith("blocks.")}
    for i in range(layers):
        names |= {
            n.replace("blocks.0.", f"blocks.{i // 10}.{i}."): t
            for n, t in small.items()
            if n.startswith("blocks.")
        }
    wide = {n: torch.empty(_scaled(t.shape, width, gated), device="meta") for n, t in names.items()}
    renamed, settings = torchhub_to_transformers(wide)
    assert encoder_misfits(settings, renamed) == []
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    config = getattr(transformers, f"{kind}Config")(**settings)
    assert (config.hidden_size, config.num_hidden_layers) == (width, layers)
    assert config.num_attention_heads == {384: 6, 768: 12, 1024: 16, 1536: 24}[width]


def _scaled(shape: torch.Size, width: int, gated: bool) -> tuple[int, ...]:
    inner = {64: width, 192: 3 * width, 256: 4 * width}
    if gated:
        big = (int(4 * width * 2 / 3) + 7) // 8 * 8
        inner |= {176: big, 352: 2 * big}
    return tuple(inner.get(size, size) for size in shape)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_pipeline_folder(tmp_path / "model", student=False)


def students(tmp_path: Path, prefix: str = "") -> list[str]:
    """Write MDT-dist's pair for the tiny pipeline and return the files."""
    paths = []
    for key in FLOWS:
        state = tiny_networks()[key].state_dict()
        weights = {f"{prefix}{n}": (0.9 * t).half() if "blocks" in n else t * 0.9
                   for n, t in state.items()}  # fmt: skip
        paths.append(tmp_path / f"{key[:4]}.pt")
        torch.save(weights, paths[-1])
    return [str(path) for path in paths]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_students_are_put_beside_the_flows(prefix: str, folder: Path, tmp_path: Path) -> None:
    """As MDT-dist publishes them (case `student_pt`)."""
    files = students(tmp_path, prefix)
    image = tmp_path / "red.png"
    cut_out_image().save(image)
    common = ["--model", str(folder), "--out", str(tmp_path / "runs"), "--device", "cpu"]
    assert main(["generate", str(image), "--student", *common]) == 3
    assert main(["convert", *files[::-1], "--student-of", str(folder)]) == 0
    assert missing_parts(folder, variant="student") == []
    description = read_pipeline(folder, "student")
    for sampler in (description.structure, description.latent):
        assert (sampler.steps, sampler.rescale_t) == (2, 1.0)
    assert description.structure.guidance_scale == 3.0 and description.latent.guidance_scale == 2.0
    loaded = load_pipeline(folder, variant="student", torso=torch.float32)
    with loaded.network(FLOWS[0]) as network:
        wanted = 0.9 * tiny_networks()[FLOWS[0]].state_dict()["blocks.0.mlp.mlp.0.weight"]
        found = network.state_dict()["blocks.0.mlp.mlp.0.weight"]
        assert torch.allclose(found, wanted, atol=1e-3)
    assert main(["generate", str(image), "--student", "--outputs", "mesh", *common]) == 0


def test_one_student_keeps_the_other(folder: Path, tmp_path: Path) -> None:
    first, second = students(tmp_path)
    for file in (first, second):
        assert main(["convert", file, "--student-of", str(folder)]) == 0
    models = read_pipeline(folder, "student").models
    assert all(models[key].name == f"{key}_student" for key in FLOWS)


def test_files_that_do_not_fit_change_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = students(tmp_path)
    torch.save({"input_layer.weight": torch.zeros(3)}, tmp_path / "odd.pt")
    before = sorted(path.name for path in folder.rglob("*"))
    for files, code in (
        ([good, str(tmp_path / "odd.pt")], "published.unknown"),
        ([good, good], "published.twice"),
    ):
        assert main(["convert", *files, "--student-of", str(folder), "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert main(["convert", good, other]) == 2
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_the_encoder_goes_where_the_pipeline_names_it(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "pipeline.json").read_text())
    content["args"]["image_cond_model"] = "dinov2_vitl14_reg"
    (folder / "pipeline.json").write_text(json.dumps(content))
    # the flows want tokens of 16 channels
    torch.save(hub_weights(16, 1), tmp_path / "dinov2.pth")
    assert main(["convert", str(tmp_path / "dinov2.pth"), "--student-of", str(folder)]) == 0
    assert missing_parts(folder) == []
    torch.save(hub_weights(32, 1), tmp_path / "wide.pth")
    assert main(["convert", str(tmp_path / "wide.pth"), "--student-of", str(folder)]) == 0
    (part,) = missing_parts(folder)
    assert "32 channels, the flows want 16" in part.why


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1203755136\n"


def spoilt(path: Path, how: str) -> str:
    """Spoil a weight file; return what is to be said of it."""
    whole = {n: t.clone() for n, t in checkpoints.load(path).tensors.items()}
    name = next(iter(whole))
    if how == "pointer":
        path.write_bytes(POINTER)
        return "git-lfs pointer"
    if how in ("cut", "cut header"):
        path.write_bytes(path.read_bytes()[: 40 if how == "cut header" else -10])
        return "cannot be read"
    if how == "empty":
        path.write_bytes(b"")
        return "cannot be read"
    if how == "lacks":
        checkpoints.save(path, {n: t for n, t in whole.items() if n != name})
        return f"missing {name}"
    if how == "shape":
        checkpoints.save(path, {**whole, name: torch.zeros(3, 5, 7)})
        return "(3, 5, 7) instead of"
    if how == "type":
        checkpoints.save(path, {**whole, name: whole[name].to(torch.int8)})
        return "type I8"
    torch.save(dict(whole), path)
    return "pickle or zip"


@pytest.mark.parametrize(
    "how", ["pointer", "cut", "cut header", "empty", "lacks", "shape", "type", "pickle"]
)
@pytest.mark.parametrize("key", ["slat_flow_model", "slat_decoder_mesh", "image_encoder"])
def test_spoilt_weights_are_told_before_anything_is_sampled(
    how: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notes of git-lfs, copies cut off, weights of something else (case `doctor_lfs`)."""
    folder = tiny_pipeline_folder(tmp_path / "model")
    said = spoilt(folder / "ckpts" / f"{key}.safetensors", how)
    assert main(["doctor", "--model", str(folder), "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["missing"]
    assert said in part["why"] and key in part["what"] and part["hint"]
    cut_out_image().save(tmp_path / "red.png")
    command = ["generate", str(tmp_path / "red.png"), "--model", str(folder), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / "runs"), "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "pipeline.incomplete" and said in error["message"]
    assert not (tmp_path / "runs").exists()


def test_a_students_missing_parts_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_pipeline_folder(tmp_path / "model")
    main(["doctor", "--model", str(folder), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["missing"] == [] and told["has_student"]
    (folder / "ckpts" / f"{FLOWS[1]}_student.safetensors").unlink()
    shutil.copyfile(
        folder / "ckpts" / f"{FLOWS[1]}.safetensors",
        folder / "ckpts" / f"{FLOWS[0]}_student.safetensors",
    )
    main(["doctor", "--model", str(folder), "--json"])
    told = json.loads(capsys.readouterr().out)["missing"]
    assert {Path(part["what"]).name for part in told} == {
        f"{key}_student.safetensors" for key in FLOWS
    }
