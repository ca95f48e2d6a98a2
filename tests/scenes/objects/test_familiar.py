"""Pictures a pipeline knows and others, by the tokens of its encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from object_pipelines import cut_out_image, tiny_pipeline_folder
from PIL import Image

from apps.cli import main
from geo3d.errors import InputError
from scenes.objects.familiar import FILE, unlikeness, warning, write_known
from scenes.objects.image import prepare_image
from scenes.objects.pipeline import load_pipeline
from scenes.objects.pipeline_folder import encoder_path, read_pipeline


def reddish(count: int, seed: int) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    colors = np.clip(draw.normal((190, 50, 40), 20, (count, 3)), 0, 255).astype(int)
    return [prepare_image(cut_out_image((int(r), int(g), int(b))), size=64) for r, g, b in colors]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_pipeline_folder(tmp_path_factory.mktemp("known") / "model", student=False)
    tokens = list(load_pipeline(folder).encode(reddish(200, 0)))
    write_known(folder, encoder_path(folder, read_pipeline(folder)), tokens)
    return folder


def test_known_pictures_are_near_and_others_far(model: Path) -> None:
    pipeline = load_pipeline(model)
    near = unlikeness(model, pipeline, reddish(50, 1))
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    far = unlikeness(model, pipeline, [Image.fromarray(noise)])
    assert near is not None and far is not None
    assert np.mean(np.array(near) > 1) < 0.1 and far[0] > 1.5
    assert warning(near[0]) == "" and f"{far[0]:.1f} times" in warning(far[0])


def test_one_in_a_hundred_is_beyond_the_limit_by_hand(tmp_path: Path) -> None:
    folder = tiny_pipeline_folder(tmp_path / "model", student=False)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(4000, 1, 2, generator=generator) * 3.0 + 1.0
    path = write_known(folder, encoder_path(folder, read_pipeline(folder)), list(tokens))
    from geo3d import checkpoints

    root = checkpoints.load(path).tensors["root"]
    # of a normal in the plane 99 % are within sqrt(-2 log 0.01) deviations
    reach = torch.tensor([[3.0 * 3.035, 0.0]]) @ root.T
    assert torch.linalg.norm(reach).item() == pytest.approx(1.0, abs=0.1)


def test_other_weights_of_the_encoder_say_nothing(model: Path, tmp_path: Path) -> None:
    other = tiny_pipeline_folder(tmp_path / "model", student=False)
    pipeline = load_pipeline(other)
    assert unlikeness(other, pipeline, reddish(1, 2)) is None
    (other / FILE).write_bytes((model / FILE).read_bytes())
    assert unlikeness(other, pipeline, reddish(1, 2)) is not None
    encoder = other / "ckpts" / "image_encoder.safetensors"
    encoder.write_bytes(encoder.read_bytes() + b" ")
    assert unlikeness(other, pipeline, reddish(1, 2)) is None
    (other / FILE).write_bytes(b"damaged")
    assert unlikeness(other, pipeline, reddish(1, 2)) is None


def test_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_known(tmp_path, tmp_path, [torch.zeros(1, 2)] * 20)


def test_the_command_line_warns(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(np.dstack([noise, np.full((40, 40), 255, np.uint8)])).save(tmp_path / "odd.png")
    Image.new("L", (40, 40), 255).save(tmp_path / "all.png")
    cut_out_image((190, 50, 40)).save(tmp_path / "red.png")
    common = ["--model", str(model), "--steps", "1", "--outputs", "gaussian", "--json"]
    common += ["--device", "cpu", "--out", str(tmp_path / "runs")]
    found = {}
    for name, more in (("odd", ["--mask", str(tmp_path / "all.png")]), ("red", [])):
        assert main(["generate", str(tmp_path / f"{name}.png"), *more, *common]) == 0
        (found[name],) = json.loads(capsys.readouterr().out)["objects"]
    assert found["red"]["notes"] == [] and found["red"]["unlikeness"] < 1
    assert found["odd"]["unlikeness"] > 1 and "unlike those" in found["odd"]["notes"][0]
