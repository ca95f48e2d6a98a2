"""``geo3d generate``: pictures to run folders, with a tiny pipeline of random networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from object_pipelines import cut_out_image, tiny_networks, tiny_pipeline
from PIL import Image

from apps.cli import main
from geo3d.errors import ConfigError
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Mesh
from scenes.objects.export import ExportConfig, simplified
from scenes.objects.pipeline_folder import write_student
from scenes.objects.samplers import SamplerConfig


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pipeline and pictures."""
    root = tmp_path_factory.mktemp("generate")
    tiny_pipeline().save(root / "model")
    cut_out_image().save(root / "red.png")
    cut_out_image((0, 80, 200)).save(root / "blue.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def generate(places: Path, *flags: str) -> tuple[int, Path]:
    arguments = ["generate", "--model", str(places / "model"), "--device", "cpu", "--json"]
    return main([*arguments, *flags]), places


def answer(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_one_picture(places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = generate(
        places,
        str(places / "red.png"),
        *("--steps", "1", "--guidance", "1", "--formats", "glb", "obj"),
        *("--out", str(tmp_path)),
    )
    found = answer(capsys)
    run = Path(found["run"])
    assert code == 0 and found["calls"] == {"structure": 1, "latent": 1}
    (row,) = found["objects"]
    assert row["voxels"] > 0 and row["gaussians"] > 0
    assert set(row["files"]) == {
        "red-latent.safetensors",
        "red-gaussians.ply",
        "red.glb",
        "red.obj",
    }
    assert all((run / "outputs" / name).is_file() for name in row["files"])
    assert load_mesh(run / "outputs" / "red.glb").n_vertices > 0
    pictures = {"red.png", "red-picture.png", "red-gaussians.png"}
    assert {p.name for p in (run / "previews").iterdir()} == pictures
    assert found["seconds"]["structure"] > 0 and found["estimate"]["peak_bytes"] > 0
    assert (run / "manifest.json").is_file()


def test_several_pictures_seeds_and_a_broken_one(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(places / name) for name in ("red.png", "broken.png", "blue.png")]
    flags = ("--count", "2", "--seed", "5", "--outputs", "gaussian", "--out", str(tmp_path))
    code, _ = generate(places, *images, *flags)
    found = answer(capsys)
    assert code == 3 and [row["code"] for row in found["failed"]] == ["object_image.unreadable"]
    names = [(row["name"], row["seed"]) for row in found["objects"]]
    assert names == [("red-5", 5), ("red-6", 6), ("blue-5", 5), ("blue-6", 6)]


def test_few_steps_mean_the_students(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    networks = tiny_pipeline()
    networks.save(model)
    sampler = SamplerConfig(steps=1, rescale_t=1.0, guidance_scale=None)
    write_student(model, {"slat_flow_model": tiny_networks()["slat_flow_model"]}, (sampler,) * 2)
    calls = []
    for flags in (("--steps", "2"), ("--steps", "2", "--no-student"), ("--student",), ()):
        image = ["generate", str(places / "red.png"), "--model", str(model)]
        options = ["--outputs", "gaussian", "--out", str(tmp_path), "--device", "cpu", "--json"]
        assert main([*image, *options, *flags]) == 0
        calls.append(answer(capsys)["calls"]["structure"])
    # the students know the guidance, the flows need a negative pass
    assert calls == [2, 4, 1, 4]


def test_each_stage_is_sampled_as_told(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--steps", "3", "--rescale-t", "1", "--interval", "0.6", "1")
    alone = ("--structure", "cfg_strength=0", "--latent", "steps=4", "interval=0,0.5")
    told = ("--outputs", "gaussian", "--gaussian-sh", "3", "--gaussian-frame", "published")
    out = ("--out", str(tmp_path))
    code, _ = generate(places, str(places / "red.png"), *flags, *alone, *told, *out)
    found = answer(capsys)
    # 3 steps without guidance; 4 steps from 1, 3/4, 1/2, 1/4, of which the last two are guided
    assert code == 0 and found["calls"] == {"structure": 3, "latent": 6}
    ply = (Path(found["run"]) / "outputs" / "red-gaussians.ply").read_bytes()
    assert ply.count(b"property float f_rest_") == 45


def test_a_mask_tells_the_object(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, outline = tmp_path / "photo.png", tmp_path / "outline.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photo)
    marked = np.zeros((40, 40), np.uint8)
    marked[10:30, 10:20] = 255
    Image.fromarray(marked).save(outline)
    flags = ("--mask", str(outline), "--steps", "1", "--outputs", "gaussian")
    code, _ = generate(places, str(photo), *flags, "--out", str(tmp_path))
    assert code == 0
    seen = Image.open(Path(answer(capsys)["run"]) / "previews" / "photo-picture.png")
    columns = np.flatnonzero(np.asarray(seen).max(axis=(0, 2)) > 60)
    # half as wide as it is high, and 1.2 times as high as all
    assert np.ptp(columns) / seen.width == pytest.approx(0.5 / 1.2, abs=0.08)


def test_views_of_one_object(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(places / name) for name in ("red.png", "blue.png")]
    code, _ = generate(places, *images, "--views", "--outputs", "gaussian", "--out", str(tmp_path))
    found = answer(capsys)
    assert code == 0 and [row["name"] for row in found["objects"]] == ["red"]
    assert len(list((Path(found["run"]) / "previews").glob("*-picture.png"))) == 2


def test_an_estimate_makes_nothing(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = generate(places, str(places / "red.png"), "--estimate", "--out", str(tmp_path / "x"))
    assert code == 0 and answer(capsys)["seconds"] > 0 and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "expected", "exit_code"),
    [
        (("nowhere.png",), "file.missing", 3),
        (("red.png", "--count", "0"), "generate.bad_batch", 2),
        (("red.png", "--steps", "0"), "sampler.bad_config", 2),
        (("red.png", "--structure", "step=2"), "sampler.bad_config", 2),
        (("red.png", "--latent", "steps=many"), "sampler.bad_config", 2),
        (("red.png", "--latent", "cfg_strength=1", "guidance_scale=2"), "sampler.bad_config", 2),
        (("red.png", "--interval", "1", "0"), "sampler.bad_config", 2),
        (("red.png", "--rescale-t", "0"), "sampler.bad_config", 2),
        (("red.png", "--gaussian-sh", "4"), "config.bad_value", 2),
        (("red.png", "blue.png", "--mask", "red.png"), "generate.wrong_masks", 2),
        (("red.png", "--mask", "nowhere.png"), "file.missing", 3),
        (("red.png", "--mask", "broken.png"), "object_image.unreadable", 3),
        (("red.png", "--formats", "stp"), "object_export.unknown_format", 2),
        (("red.png", "--faces", "1"), "config.bad_value", 2),
        (("broken.png", "nowhere.png"), "generate.no_image", 3),
        (("red.png", "--model", "nowhere"), "folder.missing", 3),
    ],
)
def test_mistakes_are_named(
    places: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    expected: str,
    exit_code: int,
) -> None:
    paths = [str(places / flag) if flag.endswith(".png") else flag for flag in flags]
    code, _ = generate(places, *paths, "--out", str(tmp_path))
    assert (code, answer(capsys)["error"]["code"]) == (exit_code, expected)


def test_an_empty_structure_is_named(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = tiny_pipeline()
    decoder = pipeline.networks["sparse_structure_decoder"]
    assert isinstance(decoder, torch.nn.Module)
    decoder.get_parameter("out_layer.2.bias").data.fill_(-1e6)
    pipeline.save(tmp_path / "model")
    image = str(places / "red.png")
    code, _ = generate(places, image, "--model", str(tmp_path / "model"), "--out", str(tmp_path))
    assert (code, answer(capsys)["error"]["code"]) == (5, "generate.empty_structure")


def test_doctor_lists_what_a_model_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--model", str(tmp_path), "--json"]) == 0
    (part,) = answer(capsys)["missing"]
    assert part["what"].endswith("pipeline.json") and part["hint"]


def test_a_face_budget_keeps_colours() -> None:
    axis = np.linspace(-1, 1, 30)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    corners = np.arange(900).reshape(30, 30)
    a, b, c, d = (
        q.ravel() for q in (corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:])
    )
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    vertices = np.stack([x.ravel(), y.ravel(), 0.2 * np.sin(3 * x.ravel())], 1)
    colors = np.where(vertices[:, :1] < 0, [[255, 0, 0]], [[0, 0, 255]]).astype(np.uint8)
    coarse = simplified(Mesh(vertices, faces, colors), 400)
    assert 200 < len(coarse.faces) <= 420 and coarse.vertex_colors is not None
    left = coarse.vertices[:, 0] < -0.1
    assert (coarse.vertex_colors[left] == [255, 0, 0]).all()
    whole = Mesh(vertices, faces, colors)
    assert simplified(whole, 10_000) is whole


def test_formats_are_known() -> None:
    with pytest.raises(ConfigError):
        ExportConfig(formats=("step",))
