"""PLY files of Gaussians: what viewers read, in which frame, back again, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from object_pipelines import cut_out_image, tiny_pipeline

from geo3d.errors import FileFormatError, Geo3dError
from geo3d.mesh.io import load_mesh
from geo3d.mesh.mesh import Limits
from scenes.objects.export import ExportConfig, export
from scenes.objects.gaussian_files import Frame, load_gaussians, save_gaussians
from scenes.objects.gaussians import GaussianConfig, Gaussians, rotation_matrices
from scenes.objects.pipeline import GenerateConfig, Generated
from scenes.objects.slat_mesh import ExtractedMesh
from scenes.objects.sparse import SparseTensor

TURNS: dict[Frame, torch.Tensor] = {
    "published": torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "y_up": torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
}


def some(count: int = 50, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    return Gaussians(
        torch.rand(count, 3, generator=generator), draw(1, 3), draw(3), draw(4), draw(1),
        GaussianConfig(),
    )  # fmt: skip


def test_columns_of_view_dependent_colour_are_zeros(tmp_path: Path) -> None:
    plain = save_gaussians(some(5), tmp_path / "plain.ply")
    for degree, columns in ((1, 9), (2, 24), (3, 45)):
        path = save_gaussians(some(5), tmp_path / "rest.ply", sh_degree=degree)
        header, _, body = path.read_bytes().partition(b"end_header\n")
        table = np.frombuffer(body, "<f4").reshape(5, -1)
        names = [line.split()[-1] for line in header.decode().splitlines() if "property" in line]
        assert names[9 : 9 + columns] == [f"f_rest_{i}" for i in range(columns)]
        assert names[9 + columns] == "opacity" and (table[:, 9 : 9 + columns] == 0).all()
        both = load_gaussians(plain), load_gaussians(path)
        assert torch.equal(both[0].raw_opacity, both[1].raw_opacity)
        assert torch.equal(both[0].features_dc, both[1].features_dc)


@pytest.mark.parametrize("frame", ["y_up", "published"])
def test_a_ply_holds_the_turned_scene(frame: Frame, tmp_path: Path) -> None:
    gaussians = some()
    data = save_gaussians(gaussians, tmp_path / "object.ply", frame).read_bytes()
    header, _, body = data.partition(b"end_header\n")
    names = [line.split()[-1].decode() for line in header.splitlines() if b"property" in line]
    table = np.frombuffer(body, [(name, "<f4") for name in names])
    assert f"element vertex {len(table)}".encode() in header and len(table) == 50

    def columns(*wanted: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([table[name] for name in wanted], axis=1))

    turn = TURNS[frame]
    torch.testing.assert_close(columns("x", "y", "z"), gaussians.xyz @ turn.T)
    axes = rotation_matrices(columns("rot_0", "rot_1", "rot_2", "rot_3"))
    torch.testing.assert_close(
        axes, turn @ rotation_matrices(gaussians.rotation), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(columns("opacity").sigmoid(), gaussians.opacity)
    torch.testing.assert_close(columns("scale_0", "scale_1", "scale_2").exp(), gaussians.scaling)


@pytest.mark.parametrize("frame", ["y_up", "published"])
def test_there_and_back(frame: Frame, tmp_path: Path) -> None:
    gaussians = some()
    path = save_gaussians(gaussians, tmp_path / "a.ply", frame)
    back = load_gaussians(path, frame)
    for name in ("xyz", "colors", "scaling", "opacity", "opacity_logit"):
        torch.testing.assert_close(
            getattr(back, name), getattr(gaussians, name), rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(back.covariance(), gaussians.covariance(), rtol=1e-4, atol=1e-7)
    again = load_gaussians(save_gaussians(back, tmp_path / "b.ply", frame), frame)
    torch.testing.assert_close(again.covariance(), back.covariance(), rtol=1e-5, atol=1e-8)


def test_files_in_any_order_and_as_text_are_read(tmp_path: Path) -> None:
    names = ["rot_0", "rot_1", "rot_2", "rot_3", "opacity", "f_rest_0", "z", "y", "x"]
    names += ["f_dc_0", "f_dc_1", "f_dc_2", "scale_0", "scale_1", "scale_2"]
    row = "2 0 0 0 0 9 0.3 0.2 0.1 1 0 -1 -3 -4 -5"
    header = "\n".join(f"property float {name}" for name in names)
    path = tmp_path / "text.ply"
    path.write_text(f"ply\nformat ascii 1.0\nelement vertex 1\n{header}\nend_header\n{row}\n")
    one = load_gaussians(path)
    torch.testing.assert_close(one.xyz, torch.tensor([[0.1, -0.3, 0.2]]))
    assert one.opacity.item() == 0.5
    torch.testing.assert_close(one.scaling.log(), torch.tensor([[-3.0, -4, -5]]))
    torch.testing.assert_close(
        rotation_matrices(one.rotation)[0], TURNS["y_up"].T, rtol=0, atol=1e-6
    )


def shared_object() -> Generated:
    """Return an object whose Gaussians sit on the vertices of its mesh; the last of no face."""
    gaussians = some(40)
    faces = torch.arange(39).reshape(-1, 3)
    made = Generated(0, torch.zeros(1, 2, 2, 2))
    made.latent = SparseTensor(torch.zeros(1, 8), torch.zeros(1, 4, dtype=torch.int32), 1)
    made.mesh, made.gaussian = ExtractedMesh(gaussians.xyz, faces, None), gaussians
    return made


def test_exported_mesh_and_gaussians_coincide(tmp_path: Path) -> None:
    config = ExportConfig(formats=("ply", "glb"), views=0)
    export(shared_object(), "thing", (tmp_path, tmp_path), config)
    stored = _positions(tmp_path / "thing-gaussians.ply")
    for suffix in config.formats:
        np.testing.assert_allclose(load_mesh(tmp_path / f"thing.{suffix}").vertices, stored[:39])
    published = ExportConfig(views=0, gaussian_frame="published")
    export(shared_object(), "theirs", (tmp_path, tmp_path), published)
    turned = _positions(tmp_path / "theirs-gaussians.ply")
    np.testing.assert_allclose(turned, stored * [1, -1, -1], atol=1e-7)


def test_the_exported_object_is_where_its_voxels_are(tmp_path: Path) -> None:
    (made,) = tiny_pipeline().generate([cut_out_image()], [1], GenerateConfig()).objects
    export(made, "object", (tmp_path, tmp_path), ExportConfig(views=0))
    assert made.latent is not None and made.gaussian is not None
    centres = (made.latent.coords[:, 1:].numpy() + 0.5) / 8 - 0.5
    x, y, z = centres.T
    stored = _positions(tmp_path / "object-gaussians.ply")
    owner = np.repeat(np.stack([x, z, -y], axis=1), len(stored) // len(centres), axis=0)
    assert np.abs(stored - owner).max() <= 0.75 / 8 + 1e-6


def _positions(path: Path) -> np.ndarray:
    return load_mesh(path).vertices


def test_damaged_files_are_named(tmp_path: Path) -> None:
    good = save_gaussians(some(3), tmp_path / "good.ply").read_bytes()
    cases = {
        "gaussians.bad_file": good.replace(b"float rot_2", b"float rot_9"),
        "mesh_file.truncated": good[:-5],
        "mesh_file.bad_header": good.replace(b"element vertex", b"element nonsense"),
    }
    for code, data in cases.items():
        (tmp_path / "bad.ply").write_bytes(data)
        with pytest.raises(Geo3dError) as caught:
            load_gaussians(tmp_path / "bad.ply")
        assert caught.value.code == code
    (tmp_path / "bad.ply").write_bytes(good[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(FileFormatError, match="not finite"):
        load_gaussians(tmp_path / "bad.ply")
    with pytest.raises(Geo3dError, match="too_many_vertices"):
        load_gaussians(tmp_path / "good.ply", limits=Limits(max_vertices=2))
