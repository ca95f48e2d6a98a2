"""The shipped example shapes: present, sound, with usable ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geo3d.files import asset
from geo3d.mesh.geodesic import HeatSolver
from geo3d.mesh.io import load_mesh
from geo3d.mesh.ops import total_area
from geo3d.synth.creatures import KINDS, examples
from geo3d.synth.creatures.examples import example_family, make_example_shapes
from geo3d.synth.creatures.surface import topology_problem

SHAPES = asset("shapes/README.md").parent


def read_vts(path: Path) -> np.ndarray:
    return np.loadtxt(path, dtype=np.int64) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_shapes_are_sound_and_their_lists_agree(kind: str) -> None:
    lengths = set()
    for number in range(1, 6):
        mesh = load_mesh(SHAPES / "off" / f"{kind}{number}.off")
        assert topology_problem(mesh) == ""
        for ending in (".vts", ".sym.vts"):
            ids = read_vts(SHAPES / "corres" / f"{mesh.name}{ending}")
            lengths.add(len(ids))
            assert ids.min() >= 0 and ids.max() < mesh.n_vertices
    assert len(lengths) == 1


def test_ground_truth_keeps_distances_between_remeshed_poses() -> None:
    one, three = (load_mesh(SHAPES / "off" / f"quadruped{i}.off") for i in (1, 3))
    assert one.n_vertices != three.n_vertices
    corr_1, corr_3 = (read_vts(SHAPES / "corres" / f"quadruped{i}.vts") for i in (1, 3))
    points = np.linspace(0, len(corr_1) - 1, 12).astype(int)
    before = HeatSolver(one).distances(corr_1[points])[:, corr_1[points]]
    after = HeatSolver(three).distances(corr_3[points])[:, corr_3[points]]
    assert np.abs(before - after).mean() < 0.03 * np.sqrt(total_area(one))


def test_the_mirror_list_is_the_mirror() -> None:
    corr = read_vts(SHAPES / "corres" / "biped1.vts")
    mirror = read_vts(SHAPES / "corres" / "biped1.sym.vts")
    np.testing.assert_array_equal(corr, np.arange(len(corr)))
    np.testing.assert_array_equal(mirror[mirror], corr)
    assert np.mean(mirror != corr) > 0.9


def test_pairs_name_shapes_of_one_kind() -> None:
    pairs = [line.split() for line in (SHAPES / "pairs.txt").read_text().splitlines()]
    assert len(pairs) == 5 * len(KINDS)
    for source, target in pairs:
        assert source[:-1] == target[:-1] and source != target
        for name in (source, target):
            assert (SHAPES / "off" / f"{name}.off").is_file()


def test_the_folder_is_small() -> None:
    sizes = [file.stat().st_size for file in SHAPES.rglob("*") if file.is_file()]
    assert sum(sizes) < 4e6 and max(sizes) < 200e3


def test_the_command_of_the_readme_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "KINDS", ("bird",))
    written = make_example_shapes(tmp_path, seed=5)
    assert [path.name for path in written] == [f"bird{i}.off" for i in range(1, 6)]
    expected, corr, _ = next(example_family("bird", 5))
    found = load_mesh(written[0])
    np.testing.assert_array_equal(found.faces, expected.faces)
    np.testing.assert_allclose(found.vertices, expected.vertices, atol=1e-9)
    np.testing.assert_array_equal(read_vts(tmp_path / "corres" / "bird1.vts"), corr)
