"""The result of matching: transfer, confidence, files and what is no map file."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.errors import FileFormatError, InputError, ShapeError
from geo3d.mesh.mesh import Mesh
from shape_matching import map_files as module
from shape_matching.correspondence import Correspondence, cycle_confidence, filled
from shape_matching.map_files import load_p2p


@pytest.fixture
def found() -> Correspondence:
    """Return the true map between a shape and its shuffled copy."""
    source = bumpy_sphere(1)
    target, order = permuted(source)
    reverse = np.argsort(order)
    rng = np.random.default_rng(0)
    return Correspondence(source, target, order, reverse, rng.random((4, 5)), rng.random(42))


def test_transfer_carries_any_values(found: Correspondence) -> None:
    assert np.array_equal(found.transfer(found.source.vertices), found.target.vertices)
    labels = np.arange(42)
    assert np.array_equal(found.transfer(labels), found.p2p_21)
    deep = np.random.default_rng(1).random((42, 2, 3))
    assert found.transfer(deep).shape == (42, 2, 3)
    assert np.array_equal(found.transfer(deep)[7], deep[found.p2p_21[7]])


def test_values_of_another_shape_are_refused(found: Correspondence) -> None:
    with pytest.raises(ShapeError) as caught:
        found.transfer(np.zeros((41, 3)))
    assert caught.value.code == "correspondence.bad_values" and "41" in caught.value.message


def test_text_round_trip(found: Correspondence, tmp_path: Path) -> None:
    path = found.save(tmp_path / "map.txt")
    lines = path.read_text().splitlines()
    assert lines == [str(i) for i in found.p2p_21]
    loaded = load_p2p(path)
    assert np.array_equal(loaded, found.p2p_21) and loaded.dtype == np.int64


def test_npz_round_trip(found: Correspondence, tmp_path: Path) -> None:
    path = found.save(str(tmp_path / "map.npz"))
    assert np.array_equal(load_p2p(path), found.p2p_21)
    with np.load(path, allow_pickle=False) as stored:
        assert set(stored) == {"p2p_21", "p2p_12", "confidence", "fmap_12"}
        for name in stored:
            np.testing.assert_array_equal(stored[name], getattr(found, name))
    bare = replace(found, fmap_12=None).save(tmp_path / "bare.npz")
    with np.load(bare, allow_pickle=False) as stored:
        assert "fmap_12" not in stored


def test_saving_replaces_and_leaves_nothing_else(found: Correspondence, tmp_path: Path) -> None:
    for _ in range(2):
        found.save(tmp_path / "map.txt")
        found.save(tmp_path / "map.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["map.npz", "map.txt"]


def test_other_names_are_refused(found: Correspondence, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        found.save(tmp_path / "map.csv")
    assert caught.value.code == "correspondence.unknown_format"
    assert not list(tmp_path.iterdir())


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("map.txt", b""),
        ("map.txt", b"\n \n"),
        ("map.txt", b"1\n2.5\n"),
        ("map.txt", b"1\n-2\n"),
        ("map.txt", b"1\nsource\n"),
        ("map.txt", b"\xff\xfe1\n"),
        ("map.txt", b"99999999999999999999999\n"),
        ("map.npz", b""),
        ("map.npz", b"0\n1\n"),
        ("map.npz", npz(p2p_12=np.arange(3))),
        ("map.npz", npz(p2p_21=np.arange(3.0) + 0.5)),
        ("map.npz", npz(p2p_21=np.zeros((2, 2), np.int64))),
        ("map.npz", npz(p2p_21=np.array([], np.int64))),
        ("map.npz", npz(p2p_21=np.array([2, -2]))),
        ("map.npz", npz(p2p_21=np.array([2**63], np.uint64))),
        ("map.npz", npz(p2p_21=np.array([None], object))),
        ("map.npz", npz(p2p_21=np.arange(1000))[:900]),
    ],
)
def test_no_map_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileFormatError) as caught:
        load_p2p(path)
    assert caught.value.code == "correspondence.bad_map" and name in caught.value.message


def test_missing_and_oversized_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        load_p2p(tmp_path / "none.txt")
    assert caught.value.code == "correspondence.missing"
    with pytest.raises(InputError) as caught:
        load_p2p(tmp_path)
    assert caught.value.code == "correspondence.missing"
    monkeypatch.setattr(module, "MAX_MAP_BYTES", 100)
    (tmp_path / "long.txt").write_text("1\n" * 60)
    (tmp_path / "bomb.npz").write_bytes(npz(p2p_21=np.zeros(1000, np.int64)))
    for name in ("long.txt", "bomb.npz"):
        with pytest.raises(FileFormatError) as caught:
            load_p2p(tmp_path / name)
        assert caught.value.code == "correspondence.bad_map"


def test_confidence_by_hand() -> None:
    vertices = np.array([[0.0, 0, 0], [0.1, 0, 0], [1, 0, 0]])
    target = Mesh(vertices, np.array([[0, 1, 2]]))
    there, back = np.array([0, 1, 2]), np.array([0, 0, 0])
    # returns 0, 0.1 and 1 away; the scale is 0.05 sqrt(4) = 0.1
    found = cycle_confidence(target, there, back, 4.0)
    np.testing.assert_allclose(found, [1.0, np.exp(-0.5), np.exp(-50.0)])


def test_confidence_ignores_motion_and_scale() -> None:
    target, rng = bumpy_sphere(1), np.random.default_rng(0)
    there, back = rng.integers(0, 30, 42), rng.integers(0, 42, 30)
    expected = cycle_confidence(target, there, back, 2.0)
    assert 0 <= expected.min() and expected.max() <= 1 and expected.min() < 0.5
    larger = moved(target, 3 * rotation(0), 5.0)
    np.testing.assert_allclose(cycle_confidence(larger, there, back, 18.0), expected, atol=1e-12)


def test_what_has_no_counterpart_takes_the_nearest_image() -> None:
    points = np.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0]])
    assert filled(np.array([-1, 7, 4]), points).tolist() == [7, 7, 4]
    for given in ([3, 2, 1], [-1, -1, -1]):
        assert filled(np.array(given), points).tolist() == given
