"""Reading registered scans: from a small file of the published layout made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import bumpy_sphere

from geo3d import backends
from geo3d.errors import BackendUnavailable, FileFormatError, InputError
from geo3d.mesh.io import save_mesh
from shape_matching.prior import dfaust
from shape_matching.prior.dfaust import DfaustConfig, frames, make_dfaust_data, sequences
from shape_matching.prior.map_shards import load_maps, load_provenance

K = 12


@pytest.fixture
def registrations(tmp_path: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    body = bumpy_sphere(3)
    times = np.linspace(1.0, 1.5, 5)
    stretched = np.stack([body.vertices * [1.0, t, 1.0] for t in times], axis=2)
    path = tmp_path / "registrations_f.hdf5"
    with h5py.File(path, "w") as archive:
        archive["faces"] = body.faces.astype(np.uint32)
        archive["50004_jiggle"] = stretched.astype(np.float32)
        archive["50020_knees"] = 3.0 * stretched[:, :, :3].astype(np.float32)
    return path


def test_sequences_and_frames(registrations: Path) -> None:
    found = sequences(registrations)
    assert [(s.name, s.frames, s.subject) for s in found] == [
        ("50004_jiggle", 5, 50004),
        ("50020_knees", 3, 50020),
    ]
    meshes = list(frames(found[0], 1, 5, 2))
    assert [mesh.name for mesh in meshes] == ["50004_jiggle_00001", "50004_jiggle_00003"]
    expected = bumpy_sphere(3).vertices * [1.0, 1.375, 1.0]
    np.testing.assert_allclose(meshes[1].vertices, expected, atol=1e-5)


def test_each_frame_gives_two_maps_at_unit_area(registrations: Path, tmp_path: Path) -> None:
    config = DfaustConfig((str(registrations),), stride=2, k=K)
    index = make_dfaust_data(config, tmp_path / "maps")
    maps, columns = load_maps(tmp_path / "maps", K), load_provenance(tmp_path / "maps")
    assert index["maps"] == len(maps) == 2 * (3 + 2)
    assert columns["creature"].tolist() == [50004] * 6 + [50020] * 4
    assert columns["frame"].tolist() == [0, 0, 2, 2, 4, 4, 0, 0, 2, 2]
    assert columns["to_template"].tolist() == [False, True] * 5
    # the template itself, and its copy three times as large: scale is gone
    identity = np.tile(np.eye(K), (2, 1, 1))
    np.testing.assert_allclose(maps[0:2], identity, atol=2e-3)
    np.testing.assert_allclose(maps[6:8], identity, atol=2e-3)
    assert np.abs(maps[4] - np.eye(K)).max() > 0.05
    assert np.array_equal(columns["evals_source"][4], columns["evals_target"][5])


def test_a_template_may_be_given(registrations: Path, tmp_path: Path) -> None:
    template = next(frames(sequences(registrations)[0], 4, 5))
    path = save_mesh(template, tmp_path / "template.ply")
    config = DfaustConfig((str(registrations),), str(path), stride=4, k=K)
    make_dfaust_data(config, tmp_path / "maps")
    maps = load_maps(tmp_path / "maps", K)
    np.testing.assert_allclose(maps[2:4], np.tile(np.eye(K), (2, 1, 1)), atol=5e-3)
    wrong = save_mesh(bumpy_sphere(2), tmp_path / "wrong.ply")
    with pytest.raises(InputError, match=r"dfaust\.bad_template"):
        make_dfaust_data(DfaustConfig((str(registrations),), str(wrong)), tmp_path / "other")


def test_a_defective_frame_is_recorded(registrations: Path, tmp_path: Path) -> None:
    import h5py

    with h5py.File(registrations, "a") as archive:
        for name in ("50004_jiggle", "50020_knees"):
            archive[name][:, :, 1] = 0.0
    index = make_dfaust_data(DfaustConfig((str(registrations),), k=K), tmp_path / "maps")
    assert index["maps"] == 2 * (4 + 2)
    # the second sequence starts after the five frames of the first
    assert sorted(index["failures"]) == ["1", "6"]
    assert index["failures"]["6"].startswith("50020_knees_00001: mesh.zero_area")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with pytest.raises(InputError, match=r"dfaust\.no_file"):
        sequences(tmp_path / "nothing.hdf5")
    text = tmp_path / "text.hdf5"
    text.write_text("no archive", encoding="utf-8")
    contents: list[dict[str, Any]] = [
        {},
        {"faces": np.array([0.5])},
        {"faces": np.array([[0, 1, 2]])},
        {"faces": np.array([[0, 1, 2]]), "50004_x": np.zeros((2, 3, 4))},
        {"faces": np.array([[0, 1, 2]]), "50004_x": np.zeros((3, 3))},
        {"faces": np.array([[0, 1, 2]]), "50004_x": np.zeros((3, 3, 0))},
    ]
    paths = [text]
    for i, content in enumerate(contents):
        paths.append(tmp_path / f"{i}.hdf5")
        with h5py.File(paths[-1], "w") as archive:
            for name, value in content.items():
                archive[name] = value
    for path in paths:
        with pytest.raises(FileFormatError, match=r"dfaust\.bad_file"):
            sequences(path)


def test_without_h5py_the_error_tells_how_to_get_it(monkeypatch: Any) -> None:
    absent = backends.Availability(False, "", "it is not installed", "pip install h5py")
    monkeypatch.setattr(backends, "available", lambda name: absent)
    with pytest.raises(BackendUnavailable, match="pip install h5py"):
        dfaust.sequences("registrations_f.hdf5")
