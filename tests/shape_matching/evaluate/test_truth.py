"""What relates two shapes is known before anything is matched, and bad lists are refused with the
remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import bumpy_sphere, permuted, tetrahedron

from apps.cli import main
from geo3d.errors import FileFormatError, InputError
from geo3d.mesh.io import save_mesh
from geo3d.mesh.mesh import Mesh
from shape_matching.evaluate.datasets import open_dataset
from shape_matching.evaluate.ground_truth import read_barycentric
from shape_matching.evaluate.protocols import protocol_pairs
from shape_matching.evaluate.truth import pair_truth, require_truth


def write_npz(path: Path) -> None:
    mesh = tetrahedron()
    np.savez(path, verts=mesh.vertices, faces=mesh.faces, corr=np.arange(4))


def test_lists_across_families_are_refused_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any pair is run (case `evaluate_hint`)."""
    for name in ("cat0", "cat1", "dog0"):
        write_npz(tmp_path / f"{name}.npz")
    dataset = open_dataset(tmp_path)
    across = [("cat0", "dog0"), ("cat1", "dog0")]
    with pytest.raises(InputError) as caught:
        require_truth(dataset, across)
    assert caught.value.code == "dataset.unrelated_ground_truth"
    assert caught.value.message.startswith("None of the 2 pairs can be scored.")
    require_truth(dataset, [*across, ("cat0", "cat1")])
    require_truth(open_dataset(tmp_path, shared_ground_truth=True), across)
    require_truth(dataset, [])
    pairs = tmp_path / "across.txt"
    pairs.write_text("cat0 dog0\ncat1 dog0  # a comment\n")
    assert main(["evaluate", "--data", str(tmp_path), "--pairs", str(pairs)]) == 3
    assert "--shared-ground-truth" in capsys.readouterr().err


def test_a_folder_without_lists_is_refused_before_the_first_pair(tmp_path: Path) -> None:
    """With the file to write (case `evaluate_hint`)."""
    for name in ("cat0", "cat1", "cat2"):
        save_mesh(tetrahedron(), tmp_path / f"{name}.off")
    (tmp_path / "cat2.vts").write_text("1\n2\n")
    with pytest.raises(InputError) as caught:
        require_truth(open_dataset(tmp_path), [("cat0", "cat1")])
    assert caught.value.code == "dataset.no_ground_truth" and ".vts" in caught.value.hint


def test_flat_folders_with_lists_and_maps_beside_the_meshes(tmp_path: Path) -> None:
    for name in ("cat0", "cat1", "dog7"):
        save_mesh(tetrahedron(), tmp_path / f"{name}.off")
        (tmp_path / f"{name}.vts").write_text("".join(f"{i}\n" for i in (4, 2, 3)))
    (tmp_path / "cat0_dog7.map").write_text("4\n3\n2\n1\n")
    dataset = open_dataset(tmp_path)
    assert dataset.names == ("cat0", "cat1", "dog7")
    cat0, cat1, dog = (dataset.file(name).load() for name in dataset.names)
    assert pair_truth(dataset, cat0, cat1).source.tolist() == [3, 1, 2]
    assert pair_truth(dataset, dog, cat0).source.tolist() == [3, 2, 1, 0]


def test_meshes_with_the_same_faces_need_no_files(tmp_path: Path) -> None:
    """Others are refused before any pair is run (case `evaluate_hint`)."""
    mesh = bumpy_sphere(1)
    for name, shape in (("alice", mesh), ("bob", mesh), ("carol", permuted(mesh)[0])):
        save_mesh(shape, tmp_path / f"{name}.obj")
    dataset = open_dataset(tmp_path)
    _, pairs = protocol_pairs(dataset)
    assert len(pairs) == 3
    alice, bob, carol = (dataset.file(name).load() for name in ("alice", "bob", "carol"))
    truth = pair_truth(dataset, alice, bob)
    assert (truth.source == np.arange(42)).all() and (truth.target == np.arange(42)).all()
    with pytest.raises(InputError) as caught:
        pair_truth(dataset, alice, carol)
    assert caught.value.code == "dataset.no_ground_truth" and "same faces" in caught.value.message
    require_truth(dataset, [("alice", "carol"), ("alice", "bob")])
    with pytest.raises(InputError, match=r"None of the 2 pairs .* same faces"):
        require_truth(dataset, [("alice", "carol"), ("carol", "bob")])


def partial_set(root: Path, rows: str) -> None:
    whole = tetrahedron()
    part = Mesh(whole.vertices[[2, 1, 0]], np.array([[0, 1, 2]]))
    for name, mesh in (("null/cat", whole), ("null/dog", whole), ("cuts/cuts_cat_shape_1", part)):
        (root / name).parent.mkdir(exist_ok=True)
        save_mesh(mesh, root / f"{name}.off")
    (root / "cuts/cuts_cat_shape_1.baryc_gt").write_text(rows)


def test_barycentric_truth_is_read(tmp_path: Path) -> None:
    # triangle 1 of the tetrahedron is (0, 2, 1); line 3 names a face that was removed
    partial_set(tmp_path, "1 0.1 0.8 0.1\n1 0 0.2 0.8\n9 1 0 0\n")
    dataset = open_dataset(tmp_path)
    protocol, pairs = protocol_pairs(dataset)
    assert (protocol, pairs) == ("shrec16", [("cat", "cuts_cat_shape_1")])
    require_truth(dataset, pairs)
    truth = pair_truth(dataset, *(dataset.file(name).load() for name in pairs[0]))
    assert truth.source.tolist() == [2, 1] and truth.target.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ("0 1 0 0\n", "dataset.zero_based"),
        ("1.5 1 0 0\n", "dataset.bad_correspondence"),
        ("1 1 0\n", "dataset.bad_correspondence"),
        ("1 nan 0 0\n", "dataset.bad_correspondence"),
        ("one 1 0 0\n", "dataset.bad_correspondence"),
        ("", "dataset.bad_correspondence"),
        ("1 1 0 0 1 1 0 0\n", "dataset.bad_correspondence"),
    ],
)
def test_damaged_barycentric_files(tmp_path: Path, rows: str, code: str) -> None:
    path = tmp_path / "a.baryc_gt"
    path.write_text(rows)
    with pytest.raises(FileFormatError) as caught:
        read_barycentric(path)
    assert caught.value.code == code


def test_barycentric_files_of_another_length_are_refused(tmp_path: Path) -> None:
    partial_set(tmp_path, "1 1 0 0\n")
    dataset = open_dataset(tmp_path)
    whole, part = (dataset.file(name).load() for name in ("cat", "cuts_cat_shape_1"))
    with pytest.raises(InputError) as caught:
        pair_truth(dataset, whole, part)
    assert caught.value.code == "dataset.unequal_ground_truth"
