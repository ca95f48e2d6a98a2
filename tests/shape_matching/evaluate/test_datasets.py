"""Folders of shapes: both layouts, 0/1-based indices, ground truth of a pair, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_helpers import make_spheres, write_list, write_npz, write_off
from helpers import bumpy_sphere, icosphere, tetrahedron

from geo3d.errors import FileFormatError, Geo3dError, InputError
from geo3d.files import asset
from shape_matching.evaluate.datasets import family_of, natural_key, open_dataset
from shape_matching.evaluate.ground_truth import read_one_based
from shape_matching.evaluate.protocols import protocol_pairs
from shape_matching.evaluate.truth import pair_truth


def four(root: Path, names: str, corr: list[int] | None = None) -> Path:
    for name in names.split():
        write_off(root / "off" / f"{name}.off", tetrahedron())
        write_list(root / "corres" / f"{name}.vts", np.array(corr or [1, 2, 3, 4]))
    return root


def test_folder_layout_is_read_in_natural_order_and_made_0_based(tmp_path: Path) -> None:
    root = four(tmp_path, "cat10 cat2", corr=[4, 1, 1])
    write_list(root / "corres" / "cat2.sym.vts", np.array([3, 2, 2]))
    dataset = open_dataset(root)
    assert dataset.names == ("cat2", "cat10")
    shape = dataset.file("cat2").load()
    assert shape.name == shape.mesh.name == "cat2" and shape.family == "cat"
    assert shape.corr.tolist() == [3, 0, 0] and shape.corr_sym.tolist() == [2, 1, 1]
    assert dataset.file("cat10").load().corr_sym is None
    assert open_dataset(root / "off").names == dataset.names


def test_npz_layout_is_read_from_the_folder_and_from_its_parent(tmp_path: Path) -> None:
    mesh = icosphere(0)
    write_npz(tmp_path / "FAUST" / "tr_reg_080.npz", mesh, [0, 11], corr_sym=np.array([3, 4]))
    write_npz(tmp_path / "TOSCA" / "cat0.npz", mesh, [0, 11])
    parent, child = open_dataset(tmp_path), open_dataset(tmp_path / "FAUST")
    assert parent.names == ("tr_reg_080", "cat0") and child.names == ("tr_reg_080",)
    shape = parent.file("tr_reg_080").load()
    assert shape.corr.tolist() == [0, 11] and shape.corr_sym.tolist() == [3, 4]
    np.testing.assert_array_equal(shape.mesh.faces, mesh.faces)


def test_same_name_in_two_npz_folders_is_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_npz(tmp_path / folder / "idle.npz", icosphere(0), [0])
    assert open_dataset(tmp_path).names == ("a:idle", "b:idle")


def test_0_based_vts_is_refused_with_the_reason(tmp_path: Path) -> None:
    four(tmp_path, "cat0", corr=[0, 1, 2])
    with pytest.raises(FileFormatError, match=r"start at 1[\s\S]*0-based") as caught:
        open_dataset(tmp_path).file("cat0").load()
    assert caught.value.code == "dataset.zero_based"


def test_index_beyond_the_shape_is_refused(tmp_path: Path) -> None:
    four(tmp_path, "cat0", corr=[1, 5])
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path).file("cat0").load()
    assert caught.value.code == "dataset.index_out_of_range"
    write_npz(tmp_path / "x.npz", icosphere(0), [12])
    with pytest.raises(InputError, match="12 vertices"):
        open_npz_file(tmp_path / "x.npz")


def open_npz_file(path: Path) -> object:
    folder = path.parent / "only"
    folder.mkdir()
    path.rename(folder / path.name)
    return open_dataset(folder).file(path.stem).load()


@pytest.mark.parametrize("text", ["", "a b", "1.5\n", "nan\n", "1e400\n"])
def test_text_that_is_no_list_of_integers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.vts").write_text(text)
    with pytest.raises(FileFormatError) as caught:
        read_one_based(tmp_path / "x.vts")
    assert caught.value.code == "dataset.bad_correspondence"


def test_integers_written_as_floats_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.vts").write_text("1.0000000e+00\r\n7\r\n")
    assert read_one_based(tmp_path / "x.vts").tolist() == [0, 6]


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"verts": np.zeros((3, 3)), "faces": np.array([[0, 1, 2]])}, "dataset.missing_key"),
        (
            {"verts": np.zeros((3, 2)), "faces": np.array([[0, 1, 2]]), "corr": np.array([0])},
            "dataset.bad_npz",
        ),
        (
            {"verts": np.eye(3), "faces": np.array([[0, 1, 2]]), "corr": np.array([0.5])},
            "dataset.bad_npz",
        ),
        (
            {"verts": np.array([[None] * 3]), "faces": np.zeros((1, 3), int), "corr": np.zeros(1)},
            "dataset.bad_npz",
        ),
    ],
)
def test_npz_with_wrong_arrays_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], code: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(FileFormatError) as caught:
        open_dataset(tmp_path).file("x").load()
    assert caught.value.code == code


def test_damaged_npz_is_an_error_of_ours_wherever_it_is_damaged(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", icosphere(1), [0, 1])
    whole = (tmp_path / "x.npz").read_bytes()
    shape = open_dataset(tmp_path).file("x")
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(len(data), size=3):
            data[at] = rng.integers(256)
        cut = rng.integers(len(data)) if rng.random() < 0.3 else len(data)
        (tmp_path / "x.npz").write_bytes(bytes(data[:cut]))
        try:
            shape.load()
            outcomes.add("ok")
        except Geo3dError as error:
            outcomes.add(error.code)
    assert "dataset.bad_npz" in outcomes


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda root: root / "nowhere", "dataset.no_folder"),
        (lambda root: root, "dataset.no_shapes"),
    ],
)
def test_folders_without_shapes_are_refused(tmp_path: Path, make: object, code: str) -> None:
    with pytest.raises(InputError) as caught:
        open_dataset(make(tmp_path))  # type: ignore[operator]
    assert caught.value.code == code


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    four(tmp_path, "cat0")
    (tmp_path / "off" / "cat0.obj").write_text("v 0 0 0\n")
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path)
    assert caught.value.code == "dataset.duplicate_name"


def test_unknown_shape_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dog7"):
        open_dataset(four(tmp_path, "cat0")).file("dog7")


def test_names_and_families() -> None:
    names = ["cat10", "cat2", "dog_1", "tr_reg_099", "mesh071", "crypto/Walk015", "17"]
    found = [family_of(name) for name in names]
    assert found == ["cat", "cat", "dog", "faust", "scape", "crypto", "shapes"]
    assert sorted(names[:3], key=natural_key) == ["cat2", "cat10", "dog_1"]


def test_pairs_of_one_family_pair_their_entries(tmp_path: Path) -> None:
    dataset = open_dataset(make_spheres(tmp_path, 2))
    a, b = dataset.file("ball_0").load(), dataset.file("ball_1").load()
    truth = pair_truth(dataset, a, b)
    np.testing.assert_allclose(a.mesh.vertices[truth.source], b.mesh.vertices[truth.target])
    assert len(truth.source) == bumpy_sphere(1).n_vertices


def test_pairs_across_tosca_families_are_refused_unless_declared(tmp_path: Path) -> None:
    four(tmp_path, "cat0 dog0")
    dataset = open_dataset(tmp_path)
    pair = dataset.file("cat0").load(), dataset.file("dog0").load()
    with pytest.raises(InputError) as caught:
        pair_truth(dataset, *pair)
    assert caught.value.code == "dataset.unrelated_ground_truth"
    declared = open_dataset(tmp_path, shared_ground_truth=True)
    assert pair_truth(declared, *pair).source.tolist() == [0, 1, 2, 3]


def test_smal_families_share_their_ground_truth(tmp_path: Path) -> None:
    assert open_dataset(four(tmp_path, "cougar_1 horse_1")).shared_ground_truth


def test_folders_of_one_template_are_comparable_and_mixed_ones_not(tmp_path: Path) -> None:
    four(tmp_path, "john1 mary1")
    assert open_dataset(tmp_path).shared_ground_truth
    write_list(tmp_path / "corres" / "mary1.vts", np.array([1, 2]))
    assert not open_dataset(tmp_path).shared_ground_truth


def test_example_shapes_have_ground_truth_for_their_pairs() -> None:
    dataset = open_dataset(asset("shapes"))
    name, pairs = protocol_pairs(dataset)
    assert name == "pairs_file" and len(pairs) >= 10
    for names in pairs:
        source, target = (dataset.file(name).load() for name in names)
        truth = pair_truth(dataset, source, target)
        assert len(truth.source) == len(truth.target) > 1000
        assert truth.target_sym is not None


def test_lists_of_different_length_are_refused(tmp_path: Path) -> None:
    four(tmp_path, "cat0 cat1")
    write_list(tmp_path / "corres" / "cat1.vts", np.array([1, 2]))
    dataset = open_dataset(tmp_path)
    with pytest.raises(InputError) as caught:
        pair_truth(dataset, dataset.file("cat0").load(), dataset.file("cat1").load())
    assert caught.value.code == "dataset.unequal_ground_truth"


def test_shrec19_map_lists_the_source_vertex_of_each_target_vertex(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write_off(tmp_path / "off" / f"{name}.off", tetrahedron())
    write_list(tmp_path / "corres" / "1_2.map", np.array([4, 3, 2, 1]))
    dataset = open_dataset(tmp_path)
    assert list(dataset.pair_maps) == [("2", "1")]
    truth = pair_truth(dataset, dataset.file("2").load(), dataset.file("1").load())
    assert truth.target.tolist() == [0, 1, 2, 3] and truth.source.tolist() == [3, 2, 1, 0]
    with pytest.raises(InputError) as caught:
        pair_truth(dataset, dataset.file("1").load(), dataset.file("2").load())
    assert caught.value.code == "dataset.no_ground_truth"


def test_dt4d_bridge_composes_in_both_directions(tmp_path: Path) -> None:
    for name, corr in (("crypto/run1", [1, 2, 3]), ("ortiz/run1", [4, 3, 2, 1])):
        write_off(tmp_path / "off" / f"{name}.off", tetrahedron())
        write_list(tmp_path / "corres" / f"{name}.vts", np.array(corr))
    # body point r of crypto is body point [4, 1, 2][r] (1-based) of ortiz
    bridge = tmp_path / "corres" / "cross_category_corres" / "crypto_ortiz.vts"
    write_list(bridge, np.array([4, 1, 2]))
    dataset = open_dataset(tmp_path)
    crypto, ortiz = dataset.file("crypto/run1").load(), dataset.file("ortiz/run1").load()
    truth = pair_truth(dataset, crypto, ortiz)
    assert truth.source.tolist() == [0, 1, 2] and truth.target.tolist() == [0, 3, 2]
    back = pair_truth(dataset, ortiz, crypto)
    assert back.source.tolist() == [0, 3, 2] and back.target.tolist() == [0, 1, 2]


@pytest.mark.data
def test_shipped_data_folder_is_understood(data_root: Path) -> None:
    shapes = data_root / "shapes"
    if not shapes.is_dir():
        pytest.skip("no shapes there")
    dataset = open_dataset(shapes)
    shape = dataset.file(dataset.names[0]).load()
    assert shape.corr is not None and shape.corr.max() < shape.mesh.n_vertices
