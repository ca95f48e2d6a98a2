"""Maps and landmarks as other programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from geo3d.errors import FileFormatError, InputError
from shape_matching.map_files import MAP_TYPES, load_p2p, read_landmarks, save_p2p

MAP = np.array([3, 0, 2, 2, 1])


@pytest.mark.parametrize("kind", MAP_TYPES)
@pytest.mark.parametrize("one_based", [False, True])
def test_maps_come_back(tmp_path: Path, kind: str, one_based: bool) -> None:
    path = save_p2p(tmp_path / f"map{kind}", MAP, {"p2p_12": MAP[:4]}, one_based)
    assert load_p2p(path, one_based).tolist() == MAP.tolist()
    if one_based:
        assert load_p2p(path).tolist() == (MAP + 1).tolist()
    else:
        with pytest.raises(FileFormatError, match="below 1"):
            load_p2p(path, one_based=True)


def test_matlab_files_hold_what_matlab_expects(tmp_path: Path) -> None:
    more = {"p2p_12": MAP[:4], "confidence": np.full(5, 0.5), "fmap_12": np.eye(3)}
    found = loadmat(save_p2p(tmp_path / "map.mat", MAP, more, one_based=True))
    assert found["p2p_21"].shape == (5, 1) and found["p2p_21"].ravel().tolist() == [4, 1, 3, 3, 2]
    assert found["p2p_12"].ravel().tolist() == [4, 1, 3, 3]
    assert found["confidence"].max() == 0.5 and (found["fmap_12"] == np.eye(3)).all()


def test_foreign_maps(tmp_path: Path) -> None:
    savemat(tmp_path / "T.mat", {"T12": MAP[:, None] + 1.0, "C": np.eye(4), "name": "cat"})
    assert load_p2p(tmp_path / "T.mat", one_based=True).tolist() == MAP.tolist()
    (tmp_path / "a.txt").write_text("# from the paper\n4.0000000e+00\n1  # the tip\n3 3\n2\n")
    assert load_p2p(tmp_path / "a.txt", one_based=True).tolist() == MAP.tolist()
    np.save(tmp_path / "a.npy", MAP.astype(np.float32)[None])
    assert load_p2p(tmp_path / "a.npy").tolist() == MAP.tolist()


def test_what_is_no_map(tmp_path: Path) -> None:
    savemat(tmp_path / "two.mat", {"a": MAP[:, None], "b": MAP[:, None]})
    (tmp_path / "torn.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(40))
    np.save(tmp_path / "half.npy", MAP + 0.5)
    np.save(tmp_path / "nan.npy", np.full(3, np.nan))
    np.save(tmp_path / "table.npy", np.eye(3))
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "words.txt").write_text("left right\n")
    names = "two.mat torn.mat half.npy nan.npy table.npy empty.npy words.txt"
    for name in names.split():
        with pytest.raises(FileFormatError) as caught:
            load_p2p(tmp_path / name)
        assert caught.value.code == "correspondence.bad_map", name
    with pytest.raises(InputError) as refused:
        save_p2p(tmp_path / "map.csv", MAP, {})
    assert refused.value.code == "correspondence.unknown_format"


def test_landmarks_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "marks.txt"
    path.write_text("# nose, tail\n1 6\n8, 9  # left ear\n\n")
    assert read_landmarks(path).tolist() == [[1, 6], [8, 9]]
    assert read_landmarks(path, one_based=True).tolist() == [[0, 5], [7, 8]]
    path.write_text("0 1\n")
    with pytest.raises(FileFormatError, match="below 1"):
        read_landmarks(path, one_based=True)
