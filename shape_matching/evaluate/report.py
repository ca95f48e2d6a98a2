"""Tables and figures of an evaluation, made from the finished pairs on disk.

Everything but ``timings.csv`` and ``timings.json`` depends on the maps alone, not on the machine's
speed or on interruptions.  Errors are mean geodesic errors x100, normalised by sqrt(source area).
The score of a dataset is the mean over pairs; the PCK curve counts the ground-truth entries of all
pairs.

Numbers of the literature that are printed beside ours were read from published tables.  Protocols
differ in detail (190 or 400 pairs, heat or exact geodesics, aligned or raw shapes), so treat
differences below 5 % as none.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geo3d.files import asset, atomic_path, atomic_write_json, atomic_write_text
from geo3d.work.tables import csv_text
from shape_matching.evaluate import metrics
from shape_matching.evaluate.config import EvaluationConfig
from shape_matching.evaluate.datasets import Dataset
from shape_matching.evaluate.pairs import PairRecord, PairStore

COLUMNS = (
    "error median_error max_error error_best_side error_best_map coverage smoothness bijectivity "
    "orientation ambiguous probability entries"
).split()
"""Columns of per_pair.csv taken from the score of a pair."""
AVERAGED = (
    "error_best_side",
    "error_best_map",
    "coverage",
    "smoothness",
    "bijectivity",
    "orientation",
)


def write_report(
    folder: Path,
    dataset: Dataset,
    store: PairStore,
    config: EvaluationConfig,
    protocol: str,
    previews: Path,
) -> dict[str, Any]:
    """Write tables into ``folder``, two PNGs into ``previews``, and return the summary."""
    from shape_matching.evaluate.figures import plot_curve, plot_worst

    records = store.records()
    summary = {
        "protocol": protocol,
        "dataset": dataset.root.resolve().name,
        "method": config.method,
        "geodesics": config.geodesics,
        "metric": "mean geodesic error x100, normalised by sqrt(area of the source)",
        **summarize(records, family_labels(dataset, records)),
        "published": published_errors(protocol),
    }
    atomic_write_text(folder / "per_pair.csv", per_pair_csv(records, dataset))
    atomic_write_text(folder / "timings.csv", timings_csv(records))
    atomic_write_json(folder / "timings.json", timing_summary(records))
    atomic_write_json(folder / "summary.json", summary)
    if config.save_maps:
        _write_maps(folder / "maps", store, records)
    scored = [record for record in records if record.score is not None]
    if scored:
        with atomic_path(previews / "curve.png") as beside:
            plot_curve(beside, summary, config.method)
        if config.worst:
            with atomic_path(previews / "worst.png") as beside:
                plot_worst(beside, dataset, store, worst_records(scored, config.worst))
    return summary


def summarize(records: Sequence[PairRecord], labels: Sequence[str]) -> dict[str, Any]:
    """Return the numbers of an evaluation; ``labels`` gives each record's family.

    ``error`` and what follows it are None when no pair was scored.
    """
    scored = [record for record in records if record.score is not None]
    failures = Counter(r.error["code"] for r in records if r.error is not None)
    tables = {label: [] for label in sorted(set(labels))}
    for record, label in zip(records, labels, strict=True):
        tables[label].append(record)
    return {
        "pairs": len(records),
        "scored": len(scored),
        "failed": len(records) - len(scored),
        "failures": dict(sorted(failures.items())),
        "remedy": _remedy(records, failures),
        **_error_numbers(scored),
        "ambiguous": sum(bool(_score(r)["ambiguous"]) for r in scored),
        "confidence": _confidence_numbers(scored),
        **{name: _mean(scored, name) for name in AVERAGED},
        **_curve(scored, "pck", metrics.THRESHOLDS, "auc_0.25"),
        **_curve(scored, "pck_ulrssm", metrics.THRESHOLDS_ULRSSM, "auc_0.10"),
        "families": {
            label: {
                "pairs": len(members),
                **_error_numbers([r for r in members if r.score is not None]),
                "failed": sum(r.score is None for r in members),
            }
            for label, members in tables.items()
        },
        "worst": [[*r.pair, _score(r)["error"]] for r in worst_records(scored, 10)],
    }


def _confidence_numbers(scored: Sequence[PairRecord]) -> dict[str, Any] | None:
    """Return how well the method knew which maps and vertices are right; None if it said nothing.

    A map is flagged where its probability is below `metrics.FLAG`, and wrong where its error is not
    below `metrics.RIGHT`.
    """
    told = [_score(r) for r in scored if _score(r).get("probability") is not None]
    if not told:
        return None
    said = np.array([score["probability"] for score in told])
    right = np.array([score["error"] < 100 * metrics.RIGHT for score in told])
    roc = metrics.area_under_roc(said, right)
    bins = np.sum([score["calibration"] for score in told], axis=0)
    return {
        "wrong": int((~right).sum()),
        "wrong_flagged": int((said[~right] < metrics.FLAG).sum()),
        "right": int(right.sum()),
        "false_alarms": int((said[right] < metrics.FLAG).sum()),
        "area_under_roc": None if np.isnan(roc) else roc,
        "vertex_calibration_error": metrics.calibration_error(bins),
    }


def _remedy(records: Sequence[PairRecord], failures: Counter[str]) -> list[str]:
    """Return an example of the commonest failure: its message, and what to do."""
    if not failures:
        return []
    code = max(sorted(failures), key=failures.__getitem__)
    error = next(r.error for r in records if r.error is not None and r.error["code"] == code)
    return [line for key in ("message", "hint") if (line := error.get(key, ""))]


def worst_records(scored: Sequence[PairRecord], count: int) -> list[PairRecord]:
    """Return the pairs with the largest error, worst first; ties keep the order of the list."""
    return sorted(scored, key=lambda r: (-_score(r)["error"], r.index))[:count]


def family_labels(dataset: Dataset, records: Sequence[PairRecord]) -> list[str]:
    """Return the family of each pair, or ``source-target`` families where they differ."""
    family = {file.name: file.family for file in dataset.files}
    ends = [(family[r.pair[0]], family[r.pair[1]]) for r in records]
    return [a if a == b else f"{a}-{b}" for a, b in ends]


def per_pair_csv(records: Sequence[PairRecord], dataset: Dataset) -> str:
    """Return one line per pair; failed pairs have their code and message instead of numbers."""
    lines = []
    for record, label in zip(records, family_labels(dataset, records), strict=True):
        score = record.score or {}
        error = record.error or {}
        state = "failed" if record.error else "ok"
        numbers = [_cell(score.get(name)) for name in COLUMNS]
        why = (error.get("code", ""), error.get("message", ""))
        lines.append([record.index, *record.pair, label, state, *numbers, *why])
    header = ["index", "source", "target", "family", "status", *COLUMNS, "code", "message"]
    return csv_text(header, lines)


def timings_csv(records: Sequence[PairRecord]) -> str:
    """Return the seconds per pair: wall and processor time of matching, wall time of scoring."""
    names = ("match", "match_cpu", "score")
    lines = [
        [r.index, *r.pair, *[f"{r.seconds[name]:.3f}" if r.seconds else "" for name in names]]
        for r in records
    ]
    return csv_text(["index", "source", "target", "match_s", "match_cpu_s", "score_s"], lines)


def timing_summary(records: Sequence[PairRecord]) -> dict[str, float | None]:
    """Return mean seconds per scored pair."""
    timed = [record.seconds for record in records if record.seconds]
    return {
        f"{name}_seconds_per_pair": float(np.mean([s[name] for s in timed])) if timed else None
        for name in ("match", "match_cpu", "score")
    }


def format_summary(summary: Mapping[str, Any], timings: Mapping[str, Any] | None = None) -> str:
    """Return the summary as text for a terminal."""
    head = f"{summary['method']} on {summary['dataset']}, protocol {summary['protocol']}"
    lines = [head, f"  pairs {summary['pairs']}, failed {summary['failed']}"]
    lines += [f"    {count} x {code}" for code, count in summary["failures"].items()]
    lines += [f"    {line}" for line in summary["remedy"]]
    if summary["error"] is not None:
        lines += _result_lines(summary)
    if timings and timings.get("match_seconds_per_pair") is not None:
        lines.append(
            f"  seconds per pair: {timings['match_seconds_per_pair']:.2f} matching "
            f"({timings['match_cpu_seconds_per_pair']:.2f} of processor time), "
            f"{timings['score_seconds_per_pair']:.2f} scoring"
        )
    if summary["published"]:
        lines.append("  published (mean error x100, read from the literature, not measured here):")
        lines += [
            f"    {row['method']:<14}{row['error']:>6.1f}  {row['kind']}; {row['source']}"
            for row in summary["published"]
        ]
    return "\n".join(lines)


def _result_lines(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        f"  mean geodesic error x100   {summary['error']:.3f}   "
        f"(median of pairs {summary['median_error']:.3f}, worst {summary['max_error']:.3f}; "
        f"{summary['geodesics']} geodesics)",
        f"  AUC to 0.25: {summary['auc_0.25']:.4f}   AUC to 0.10: {summary['auc_0.10']:.4f}",
    ]
    if summary["error_best_side"] is not None:
        lines.append(
            f"  forgiving left/right flips: {summary['error_best_side']:.3f} per point, "
            f"{summary['error_best_map']:.3f} per map (diagnosis, not comparable)"
        )
    parts = [
        f"{name} {summary[name]:.3f}"
        for name in ("coverage", "smoothness", "bijectivity", "orientation")
        if summary[name] is not None
    ]
    lines.append("  " + ", ".join(parts))
    if len(summary["families"]) > 1:
        lines += [
            f"    {name:<16} {row['error']:8.3f}  ({row['pairs']} pairs)"
            for name, row in summary["families"].items()
            if row["error"] is not None
        ]
    return lines


def _error_numbers(scored: Sequence[PairRecord]) -> dict[str, float | None]:
    errors = [_score(record)["error"] for record in scored]
    if not errors:
        return {"error": None, "median_error": None, "max_error": None}
    return {
        "error": float(np.mean(errors)),
        "median_error": float(np.median(errors)),
        "max_error": float(np.max(errors)),
    }


def _curve(
    scored: Sequence[PairRecord], name: str, thresholds: np.ndarray, area_name: str
) -> dict[str, Any]:
    entries = sum(_score(record)["entries"] for record in scored)
    if not entries:
        return {name: None, area_name: None}
    counts = np.sum([_score(record)[name] for record in scored], axis=0)
    curve = counts / entries
    return {
        name: {"thresholds": thresholds.tolist(), "fractions": curve.tolist()},
        area_name: metrics.auc(curve, thresholds),
    }


def _mean(scored: Sequence[PairRecord], name: str) -> float | None:
    values = [_score(record)[name] for record in scored]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _score(record: PairRecord) -> Mapping[str, Any]:
    return record.score or {}


def _cell(value: float | int | bool | None) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _write_maps(folder: Path, store: PairStore, records: Sequence[PairRecord]) -> None:
    for record in records:
        path = folder / f"{record.index:05d}.txt"
        if record.score is not None and not path.is_file():
            p2p_21, _ = store.arrays(record.index)
            atomic_write_text(path, "\n".join(map(str, p2p_21)) + "\n")


def published_errors(protocol: str) -> list[dict[str, Any]]:
    """Return method, error, kind and source of the literature's numbers for a protocol.

    Kind tells how a method is obtained: axiomatic, zero-shot, or trained on the category.
    """
    with asset("matching/published.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.pop("protocol") == protocol]
    return [{**row, "error": float(row["error"])} for row in rows]
