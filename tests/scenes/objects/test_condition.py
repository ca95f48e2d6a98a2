"""DINOv2 from a local folder through transformers, against its own layers; and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from object_pipelines import cut_out_image, tiny_networks, tiny_pipeline
from PIL import Image

from geo3d.errors import CheckpointError
from scenes.objects.condition import DinoEncoder
from scenes.objects.folder_check import missing_parts
from scenes.objects.image import SIZE, prepare_image
from scenes.objects.pipeline import GenerateConfig, Pipeline, load_pipeline

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny encoder of random weights, as transformers writes it."""
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=56, patch_size=14, num_register_tokens=4,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Dinov2WithRegistersModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    path = tmp_path_factory.mktemp("encoder") / "dino"
    model.save_pretrained(path, safe_serialization=True)
    return path


def images() -> list[Image.Image]:
    return [prepare_image(cut_out_image(color)) for color in ((200, 40, 40), (0, 90, 220))]


def test_tokens_are_the_last_block_before_its_norm(folder: Path) -> None:
    encoder = DinoEncoder(folder)
    tokens = encoder.encode(images())
    assert tokens.shape == (2, 1 + 4 + (SIZE // 14) ** 2, 16) and encoder.channels == 16
    torch.testing.assert_close(tokens, F.layer_norm(tokens, (16,)), rtol=0, atol=1e-3)
    # layer by layer: embedding, blocks, and no norm with weights
    model: Any = encoder.model
    mean, std = ((torch.tensor(v)[:, None, None]) for v in
                 ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
    pixels = np.stack([np.asarray(p, np.float32) / 255 for p in images()])
    with torch.no_grad():
        h = model.embeddings((torch.from_numpy(pixels).movedim(-1, 1) - mean) / std)
        states = model(
            (torch.from_numpy(pixels).movedim(-1, 1) - mean) / std, output_hidden_states=True
        )
        torch.testing.assert_close(states.hidden_states[0], h)
        last = states.hidden_states[-1]
        torch.testing.assert_close(model.layernorm(last), states.last_hidden_state)
    torch.testing.assert_close(tokens, F.layer_norm(last, (16,)), rtol=1e-4, atol=1e-4)
    wrong = F.layer_norm(states.last_hidden_state, (16,))
    assert (tokens - wrong).abs().max() > 0.05


def test_images_do_not_depend_on_each_other(folder: Path) -> None:
    encoder = DinoEncoder(folder)
    both = encoder.encode(images())
    for i, image in enumerate(images()):
        torch.testing.assert_close(encoder.encode([image])[0], both[i], rtol=1e-4, atol=1e-5)


def test_half_precision_returns_float32(folder: Path) -> None:
    half = DinoEncoder(folder, dtype=torch.bfloat16).encode(images()[:1])
    whole = DinoEncoder(folder).encode(images()[:1])
    assert half.dtype == torch.float32 and (half - whole).abs().mean() < 0.1


def test_a_pipeline_with_dino_runs_offline(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    source = tiny_pipeline()
    networks = tiny_networks()
    pipeline = Pipeline(
        networks, DinoEncoder(folder), source.samplers, ([0.0] * 4, [1.0] * 4), device="cpu"
    )
    pipeline.save(tmp_path, encoder="dinov2_vitl14_reg")
    os.symlink(folder, tmp_path / "dinov2_vitl14_reg")
    given = load_pipeline(tmp_path, encoder=folder)
    config = GenerateConfig(outputs=())
    (one,) = pipeline.generate([cut_out_image()], [1], config).objects
    (two,) = given.generate([cut_out_image()], [1], config).objects
    assert torch.equal(one.structure, two.structure)
    assert missing_parts(tmp_path, encoder=folder) == []


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a program": (lambda f: (f / "modeling_dino.py").write_text("x"), "condition.unsafe_files"),
    "a pickle": (lambda f: (f / "pytorch_model.bin").write_bytes(b""), "condition.unsafe_files"),
    "deeper": (
        lambda f: ((f / "a").mkdir(), (f / "a" / "x.PKL").write_bytes(b"")),
        "condition.unsafe_files",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "condition.no_encoder"),
    "torn weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"\0" * 9), "condition.no_encoder",
    ),
    "no settings": (lambda f: (f / "config.json").unlink(), "condition.no_encoder"),
    "torn settings": (lambda f: (f / "config.json").write_text("{"), "condition.no_encoder"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_unsafe_and_damaged_folders_are_named(name: str, folder: Path, tmp_path: Path) -> None:
    own = copied(folder, tmp_path / "own")
    damage, code = DAMAGES[name]
    damage(own)
    with pytest.raises(CheckpointError) as caught:
        DinoEncoder(own)
    assert caught.value.code == code


def test_settings_cannot_bring_programs(folder: Path, tmp_path: Path) -> None:
    own = copied(folder, tmp_path / "own")
    settings = json.loads((own / "config.json").read_text())
    settings["auto_map"] = {"AutoModel": "somebody/elses--modeling.Model"}
    (own / "config.json").write_text(json.dumps(settings))
    plain, mapped = (DinoEncoder(f).encode(images()[:1]) for f in (folder, own))
    assert torch.equal(plain, mapped)


def test_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    own = copied(folder, tmp_path / "own")
    settings = json.loads((own / "config.json").read_text())
    # wider, and deeper: the library would fill in random numbers
    for change in ({"hidden_size": 24}, {"num_hidden_layers": 3}):
        (own / "config.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(CheckpointError) as caught:
            DinoEncoder(own)
        assert caught.value.code == "condition.no_encoder"
