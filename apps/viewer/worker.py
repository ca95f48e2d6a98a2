"""The child process of a job of the viewer: the verb, then the error if ground truth is at hand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apps.job_files import read_job, run_folder
from apps.job_worker import explain_crashes, work
from apps.viewer.match_result import read_map, read_shapes
from geo3d.errors import Geo3dError
from geo3d.files import atomic_path, atomic_write_json


def run_and_measure(folder: Path, argv: Sequence[str]) -> int:
    """Run the verb ``argv``; measure its map where the job's inputs hold ground truth."""
    from apps.cli import main

    code = main(argv)
    if code == 0 and (folder / "inputs" / "truth.npz").is_file():
        try:
            measure(folder)
        except Geo3dError as error:
            # The map is there and good; that its error cannot be measured is a remark.
            atomic_write_json(folder / "errors_failed.json", error.to_dict())
    return code


def measure(folder: Path) -> None:
    """Write the normalised geodesic error of each ground-truth entry to ``errors.npz``.

    Raises:
        Geo3dError: the codes of `shape_matching.evaluate.scoring`.
    """
    from geo3d.listeners import jsonl_listener
    from geo3d.progress import report
    from shape_matching.evaluate.scoring import SourceScorer

    job, run = read_job(folder), run_folder(folder)
    if job is None or run is None:
        return
    report(jsonl_listener(run / "progress.jsonl"), "measuring the error", 0)
    source, _ = read_shapes(job)
    with np.load(folder / "inputs" / "truth.npz", allow_pickle=False) as truth:
        at, wanted = truth["target"], truth["source"]
    p2p_21 = read_map(run)[0]
    errors = SourceScorer(source).errors(p2p_21, at, wanted)
    errors[p2p_21[at] < 0] = np.nan
    with atomic_path(folder / "errors.npz") as path:
        np.savez(path, target=at, errors=errors)


if __name__ == "__main__":
    explain_crashes()
    job_folder = Path(sys.argv[1])
    sys.exit(work(job_folder, lambda argv: run_and_measure(job_folder, argv)))
