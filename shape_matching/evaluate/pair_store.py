"""Finished pairs on disk: one small file each, whole or not there, so that a killed run goes on.

``pairs/00012.json`` holds the numbers (or the error) of pair 12 and is written last;
``pairs/00012.npz`` holds its map and its errors.  ``evaluation.json`` says what is being evaluated:
a folder is only continued with the same pairs, method and settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from geo3d.errors import InputError
from geo3d.files import atomic_path, atomic_write_json
from shape_matching.evaluate.pair_job import PairResult
from shape_matching.evaluate.protocols import Pair

RETRIED = frozenset({"evaluate.worker_died", "evaluate.pair_timeout"})
"""Failures that are the machine's rather than the pair's: tried again on resume."""


@dataclass(frozen=True)
class PairRecord:
    """One finished pair as it is on disk."""

    index: int
    pair: Pair
    score: Mapping[str, Any] | None
    error: Mapping[str, str] | None
    seconds: Mapping[str, float]


class PairStore:
    """The finished pairs of one evaluation folder.

    Raises:
        InputError: ``evaluate.other_run`` when the folder belongs to another evaluation.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], pairs: Sequence[Pair]) -> None:
        self._folder = folder / "pairs"
        self._pairs = list(pairs)
        self._folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps({**identity, "pairs": self._pairs}, default=str))
        path = folder / "evaluation.json"
        if path.is_file():
            _compare(folder, json.loads(path.read_text(encoding="utf-8")), wanted)
        else:
            atomic_write_json(path, wanted)

    def records(self) -> list[PairRecord]:
        """Return the finished pairs in the order of the pair list."""
        found = [self._read(index) for index in range(len(self._pairs))]
        return [record for record in found if record is not None]

    def open_indices(self) -> list[int]:
        """Return the pairs still to do, those with a failure of the machine among them."""
        closed = {
            record.index
            for record in self.records()
            if record.error is None or record.error["code"] not in RETRIED
        }
        return [index for index in range(len(self._pairs)) if index not in closed]

    def put_result(self, index: int, result: PairResult) -> None:
        """Store a scored pair."""
        with atomic_path(self._path(index, ".npz")) as beside, beside.open("wb") as stream:
            np.savez_compressed(stream, p2p_21=result.p2p_21, errors=result.errors)
        self._put(index, result.score, None, result.seconds)

    def put_error(self, index: int, error: Mapping[str, str]) -> None:
        """Store a pair that failed."""
        self._put(index, None, error, {})

    def arrays(self, index: int) -> tuple[Int32[np.ndarray, " n2"], Float32[np.ndarray, " i"]]:
        """Return map and errors of a scored pair."""
        with np.load(self._path(index, ".npz"), allow_pickle=False) as archive:
            return archive["p2p_21"], archive["errors"]

    def _put(
        self,
        index: int,
        score: Mapping[str, Any] | None,
        error: Mapping[str, str] | None,
        seconds: Mapping[str, float],
    ) -> None:
        source, target = self._pairs[index]
        record = {"source": source, "target": target, "score": score, "error": error}
        atomic_write_json(self._path(index, ".json"), {**record, "seconds": dict(seconds)})

    def _read(self, index: int) -> PairRecord | None:
        path = self._path(index, ".json")
        if not path.is_file():
            return None
        stored = json.loads(path.read_text(encoding="utf-8"))
        pair = (stored["source"], stored["target"])
        return PairRecord(index, pair, stored["score"], stored["error"], stored["seconds"])

    def _path(self, index: int, suffix: str) -> Path:
        return self._folder / f"{index:05d}{suffix}"


def _compare(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [key for key in wanted if stored.get(key) != wanted[key]]
    if different:
        raise InputError(
            "evaluate.other_run",
            f"{folder} holds another evaluation: {', '.join(different)} differ.",
            "Choose another --out, or resume with the settings the run was started with.",
        )
