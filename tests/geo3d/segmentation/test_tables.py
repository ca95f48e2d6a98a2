"""Tables from per-image CSVs in the published format, against closed forms."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from geo3d.errors import FileFormatError, InputError
from geo3d.segmentation.measures import (
    COLUMNS,
    METRICS,
    PUBLISHED_METRICS,
    gather,
    measure_image,
    read_measures,
    write_measures,
)
from geo3d.segmentation.report import markdown, write_tables
from geo3d.segmentation.tables import (
    Entry,
    Setting,
    aggregate,
    read_groups,
    read_published,
    read_results,
    topomortar_groups,
)

SEEDS = 10
GROUPS = ("indistr", "angles", "colors", "graffiti", "objects", "shadows", "occlusion")
PUBLISHED_COLUMNS = ",".join(list(COLUMNS.values())[: len(PUBLISHED_METRICS)])
STEP = 0.25
"""How much each seed is above the one before."""


def value(image: int, seed: int) -> float:
    """Alternate by g + 1 around 10 (g + 1) in group g, shifted by the seed."""
    group = (image - 71) // 50
    sign = 1 if (image + seed) % 2 else -1
    return 10 * (group + 1) + sign * (group + 1) + STEP * (seed - (SEEDS - 1) / 2)


def write_upstream(root: Path, loss: str = "CEDice", seeds: int = SEEDS) -> Path:
    folder = root / "supervised" / "accurate" / "large" / loss
    folder.mkdir(parents=True)
    header = "ID,Betti0ErrorLocal_mortar,Betti0Error_mortar,Betti1ErrorLocal_mortar,"
    header += "Betti1Error_mortar,Dice_mortar,HD95_mortar,clDice_mortar"
    for seed in range(seeds):
        lines = [header]
        for image in range(420, 70, -1):
            number = value(image, seed)
            hd95 = 9999999.0 if (image, seed) == (71, 0) else 5.0
            cl_dice = "" if (image, seed) == (121, 3) else "0.5"
            lines.append(f"{image:03d},1,{number},2,{2 * number},0.75,{hd95},{cl_dice}")
        (folder / f"{seed}.csv").write_text("\n".join(lines) + "\n")
    return root


def entries_by_name(root: Path) -> dict[tuple[str, str], Entry]:
    found = aggregate(read_results(root), topomortar_groups())
    return {(entry.split, entry.metric): entry for entry in found}


def test_means_and_spreads_have_their_closed_form(tmp_path: Path) -> None:
    found = entries_by_name(write_upstream(tmp_path))
    n = 50 * SEEDS
    shift = STEP**2 * (SEEDS**2 - 1) / 12
    stds = [math.sqrt(((g + 1) ** 2 + shift) * n / (n - 1)) for g in range(7)]
    one = found["ID", "Betti0"]
    assert one.mean == pytest.approx(10)
    assert one.std == pytest.approx(stds[0])
    assert (one.n_seeds, one.n_images) == (SEEDS, 50)
    assert one.seed_std == pytest.approx(STEP * math.sqrt(SEEDS * (SEEDS + 1) / 12))
    assert one.seed_min == pytest.approx(10 - STEP * 4.5)
    assert one.seed_max == pytest.approx(10 + STEP * 4.5)
    out = found["OOD", "Betti0"]
    assert out.mean == pytest.approx(45)
    assert out.std == pytest.approx(np.mean(stds[1:]))
    assert out.n_images == 300
    for g, group in enumerate(GROUPS[1:], 1):
        assert found[group, "Betti1"].mean == pytest.approx(20 * (g + 1))
        assert found[group, "Betti1"].std == pytest.approx(
            2 * math.sqrt(((g + 1) ** 2 + shift) * n / (n - 1))
        )


def test_an_empty_prediction_counts_as_the_diagonal(tmp_path: Path) -> None:
    found = entries_by_name(write_upstream(tmp_path))
    assert found["ID", "HD95"].mean == pytest.approx((499 * 5 + 722.663) / 500)
    assert found["OOD", "HD95"].mean == pytest.approx(5)


def test_an_undefined_value_is_left_out(tmp_path: Path) -> None:
    found = entries_by_name(write_upstream(tmp_path))
    assert found["angles", "clDice"].mean == pytest.approx(0.5)
    assert found["OOD", "clDice"].std == pytest.approx(0)


def test_groups_of_unequal_size_count_equally() -> None:
    rows = [("071", 0.0), ("121", 3.0), ("122", 5.0), ("171", 20.0)]
    measures = gather([(i, dict.fromkeys(METRICS, x)) for i, x in rows])
    setting = Setting("supervised", "accurate", "large", "CEDice")
    found = aggregate({setting: {"0": measures}}, topomortar_groups())
    out = next(e for e in found if e.split == "OOD" and e.metric == "Betti0")
    assert out.mean == pytest.approx((4 + 20) / 2)
    assert math.isnan(out.seed_std)


def test_metrics_of_an_image() -> None:
    true = np.zeros((128, 128), bool)
    true[20:100, 20:100] = True
    true[40:60, 40:60] = False
    predicted = true.copy()
    predicted[40:60, 40:60] = True
    predicted[110:112, 5:7] = True
    found = measure_image(predicted, true)
    assert set(found) == set(METRICS)
    assert (found["Betti0"], found["Betti1"]) == (1, 1)
    assert (found["BettiMatching0"], found["BettiMatching1"]) == (1, 1)
    assert (found["Betti0Local"], found["Betti1Local"]) == (1, 1)
    sizes = np.count_nonzero(predicted) + np.count_nonzero(true)
    assert found["Dice"] == pytest.approx(2 * np.count_nonzero(true) / sizes)
    empty = np.zeros_like(true)
    assert measure_image(empty, true)["Betti0"] == 1
    assert measure_image(empty, true, compat=True)["Betti0"] == 0
    assert measure_image(empty, true, compat=True)["HD95"] == 9_999_999


def test_a_written_file_reads_back(tmp_path: Path) -> None:
    rows = [(f"{i:03d}", {m: float(i) + k / 7 for k, m in enumerate(METRICS)}) for i in (7, 9)]
    rows[1][1]["clDice"] = math.nan
    path = write_measures(gather(rows), tmp_path / "0.csv")
    assert path.read_text().startswith("ID," + ",".join(COLUMNS.values()))
    back = read_measures(path)
    assert back.ids == ("007", "009")
    for name in METRICS:
        np.testing.assert_array_equal(back.values[name], [row[name] for _, row in rows])


def test_names_get_their_zeros_back(tmp_path: Path) -> None:
    rows = [("71", dict.fromkeys(METRICS, 1.0))]
    assert read_measures(write_measures(gather(rows), tmp_path / "0.csv")).ids == ("071",)


def test_tables_are_written_in_every_form(tmp_path: Path) -> None:
    root = write_upstream(tmp_path / "results", seeds=2)
    entries = aggregate(read_results(root), topomortar_groups())
    row = Entry(entries[0].setting, "ID", "Betti0", 3.31, 6.6, 10)
    failed = {"cell": "clDice/0", "code": "run.cancelled", "message": "a | b"}
    payload = write_tables(tmp_path / "out", entries, published=[row], failures=[failed])
    text = (tmp_path / "out" / "tables.md").read_text()
    mine, published = text.split("# Published")
    assert "3.31" not in mine
    assert "3.31 ± 6.60" in published
    assert "a \\| b" in mine
    assert "9.50 ± 1.01 [± 0.18]" not in published
    with (tmp_path / "out" / "tables.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(payload["measured"]) == 8 * len(PUBLISHED_METRICS)
    assert read_published(tmp_path / "out" / "tables.csv") == [
        Entry(e.setting, e.split, e.metric, e.mean, e.std, e.n_seeds) for e in entries
    ]


def test_a_table_without_results_of_other_settings(tmp_path: Path) -> None:
    entry = Entry(Setting("supervised", "noisy", "large", "x"), "ID", "Dice", 0.5, 0.1, 1)
    other = Entry(Setting("randhue", "noisy", "large", "x"), "ID", "Dice", 0.25, 0.1, 1)
    assert "0.25" not in markdown([entry], published=[other])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "tables.no_column"),
        ("ID,Dice_mortar\n001,1\n", "tables.no_column"),
        (f"ID,{PUBLISHED_COLUMNS}\n001,x,1,1,1,1,1,1\n", "tables.bad_csv"),
        (f"ID,{PUBLISHED_COLUMNS}\n001,1,1\n", "tables.bad_csv"),
        (f"ID,{PUBLISHED_COLUMNS}\n" + "001,1,1,1,1,1,1,1\n" * 2, "tables.repeated_image"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "0.csv"
    path.write_text(text)
    with pytest.raises(FileFormatError) as caught:
        read_measures(path)
    assert caught.value.code == code


def test_folders_without_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_results(tmp_path)
    assert caught.value.code == "tables.no_results"
    root = write_upstream(tmp_path, seeds=2)
    path = root / "supervised/accurate/large/CEDice/1.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(InputError) as caught:
        read_results(root)
    assert caught.value.code == "tables.unequal_images"
    path.unlink()
    with pytest.raises(InputError) as caught:
        aggregate(read_results(root), {"071": "indistr"})
    assert caught.value.code == "tables.unknown_image"
    bad = tmp_path / "bad.csv"
    bad.write_text("name,kind\n1,2\n")
    with pytest.raises(FileFormatError) as caught:
        read_groups(bad)
    assert caught.value.code == "tables.bad_groups"
    with pytest.raises(FileFormatError) as caught:
        read_published(bad)
    assert caught.value.code == "tables.bad_published"
