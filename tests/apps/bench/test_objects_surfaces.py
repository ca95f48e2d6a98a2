"""Open edges of generated meshes, and faces asked for."""

from __future__ import annotations

from pathlib import Path

from object_pipelines import tiny_pipeline_folder

from apps.bench.objects_surfaces import FACES, bench_surfaces


def test_whole_meshes_are_closed_and_keep_to_their_faces(tmp_path: Path) -> None:
    folder = tiny_pipeline_folder(tmp_path / "model", student=False)
    published, whole = bench_surfaces(folder, kinds=("cup",))
    assert published["objects"] == whole["objects"] == 1
    assert published["faces kept"] == whole["faces kept"] == f"{len(FACES)} of {len(FACES)}"
    assert whole["watertight"] == 1 and whole["open edges"] == 0 and whole["edges"] > 100
    assert whole["of them watertight"] == len(FACES)
