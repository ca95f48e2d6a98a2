"""Pair lists of the literature, pair files, sampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_helpers import write_list, write_npz, write_off
from helpers import icosphere, tetrahedron

from geo3d.errors import ConfigError, FileFormatError, InputError
from shape_matching.evaluate.datasets import Dataset, open_dataset
from shape_matching.evaluate.protocols import (
    PROTOCOLS,
    protocol_pairs,
    read_pairs,
    sample_pairs,
)


def named(root: Path, names: list[str]) -> Dataset:
    for name in names:
        (root / f"{name}.npz").touch()
    return open_dataset(root)


FAUST = [f"tr_reg_{i:03d}" for i in range(80, 100)]


def test_faust_has_190_unordered_and_400_ordered_pairs(tmp_path: Path) -> None:
    dataset = named(tmp_path, ["tr_reg_000", *FAUST])
    name, pairs = protocol_pairs(dataset)
    assert name == "faust_r" and len(pairs) == len(set(pairs)) == 190
    assert all(a < b for a, b in pairs) and pairs[0] == ("tr_reg_080", "tr_reg_081")
    every = protocol_pairs(dataset, "faust_400")[1]
    assert len(every) == 400 and ("tr_reg_085", "tr_reg_085") in every


def test_tosca_pairs_are_ordered_and_inside_families(tmp_path: Path) -> None:
    names = ["cat0", "cat10", "cat2", "dog0", "dog1", "centaur0", "centaur1", "david3", "david4"]
    dataset = named(tmp_path, names)
    name, pairs = protocol_pairs(dataset)
    assert name == "tosca" and len(pairs) == 6 + 2
    assert pairs[0] == ("cat0", "cat2") and ("cat2", "cat0") in pairs
    assert protocol_pairs(dataset, "tosca_centaur")[1] == [("centaur0", "centaur1")]
    families = protocol_pairs(dataset, "families")[1]
    assert len(families) == 6 + 2 + 2 + 2 and ("david4", "david3") in families
    assert len(protocol_pairs(dataset, "all")[1]) == 3 + 1 + 1 + 1


@pytest.mark.data
def test_lists_agree_with_the_published_files(data_root: Path) -> None:
    shapes = data_root / "shapes"
    for folder, protocol, file in (
        ("FAUST", "faust_r", "pairs_faust_190.txt"),
        ("FAUST", "faust_400", "pairs_faust_400.txt"),
        ("TOSCA_iso", "tosca", "pairs_tosca_iso_ordered.txt"),
        ("TOSCA_iso", "tosca_centaur", "pairs_tosca_centaur.txt"),
    ):
        if not (shapes / file).is_file():
            pytest.skip(f"{file} is not there")
        dataset = open_dataset(shapes / folder)
        assert protocol_pairs(dataset, protocol)[1] == read_pairs(shapes / file, dataset)


def test_scape_takes_the_last_20_of_71(tmp_path: Path) -> None:
    names = [f"mesh{i:03d}" for i in range(72) if i != 51]
    name, pairs = protocol_pairs(named(tmp_path, names))
    assert name == "scape_r" and len(pairs) == 190
    assert {a for pair in pairs for a in pair} == {f"mesh{i:03d}" for i in range(52, 72)}


def test_smal_takes_test_categories_across_categories(tmp_path: Path) -> None:
    dataset = named(tmp_path, ["cougar_1", "dog_3", "hippo_1", "hippo_2", "horse_4"])
    name, pairs = protocol_pairs(dataset)
    assert name == "smal_r" and len(pairs) == 6 and ("cougar_1", "hippo_1") in pairs
    (tmp_path / "test_cat.txt").write_text("cougar_1\ndog_3\n")
    assert protocol_pairs(dataset, "smal_r")[1] == [("cougar_1", "dog_3")]


def test_shrec19_uses_its_map_files_without_shape_40(tmp_path: Path) -> None:
    for name in ("1", "2", "40"):
        write_off(tmp_path / "off" / f"{name}.off", tetrahedron())
    for name in ("1_2", "2_40", "40_1"):
        write_list(tmp_path / "corres" / f"{name}.map", np.arange(1, 5))
    assert protocol_pairs(open_dataset(tmp_path)) == ("shrec19_r", [("2", "1")])


def test_dt4d_inside_and_across_categories(tmp_path: Path) -> None:
    for name in ("crypto/a", "crypto/b", "ortiz/a", "pumpkinhulk/a", "pumpkinhulk/b"):
        write_off(tmp_path / "off" / f"{name}.off", tetrahedron())
    for name in ("crypto_ortiz", "crypto_pumpkinhulk"):
        write_list(tmp_path / "corres" / "cross_category_corres" / f"{name}.vts", np.arange(1, 5))
    dataset = open_dataset(tmp_path)
    assert protocol_pairs(dataset) == ("dt4d_intra", [("crypto/a", "crypto/b")])
    inter = protocol_pairs(dataset, "dt4d_inter")[1]
    assert inter == [("crypto/a", "ortiz/a"), ("crypto/b", "ortiz/a")]
    (tmp_path / "test.txt").write_text("crypto/b\nortiz/a\n")
    assert protocol_pairs(dataset, "dt4d_inter")[1] == [("crypto/b", "ortiz/a")]


def test_pairs_beside_the_shapes_are_the_protocol(tmp_path: Path) -> None:
    dataset = named(tmp_path, ["imp0", "imp1"])
    (tmp_path / "pairs.txt").write_text("# mine\nimp1 imp0  # one\n\n")
    assert protocol_pairs(dataset) == ("pairs_file", [("imp1", "imp0")])


def test_other_shapes_are_all_paired(tmp_path: Path) -> None:
    dataset = named(tmp_path, ["imp0", "imp1", "imp2"])
    assert protocol_pairs(dataset)[0] == "all" and len(protocol_pairs(dataset)[1]) == 3


def test_mixed_sets_ask_for_a_choice(tmp_path: Path) -> None:
    dataset = named(tmp_path, [*FAUST, "cat0", "cat1"])
    with pytest.raises(ConfigError, match="faust_r, tosca") as caught:
        protocol_pairs(dataset)
    assert caught.value.code == "protocol.ambiguous"
    assert len(protocol_pairs(dataset, "tosca")[1]) == 2


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"all", "families", "pairs_file"}))
def test_a_protocol_says_what_it_lacks(tmp_path: Path, protocol: str) -> None:
    with pytest.raises(InputError, match="lacks") as caught:
        protocol_pairs(named(tmp_path, ["imp0", "imp1"]), protocol)
    assert caught.value.code == "protocol.missing_shapes"


def test_a_single_shape_has_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        protocol_pairs(named(tmp_path, ["imp0"]), "families")
    assert caught.value.code == "protocol.no_pairs"


def test_unknown_protocol_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="faust_r") as caught:
        protocol_pairs(named(tmp_path, ["imp0"]), "fuast")
    assert caught.value.code == "protocol.unknown"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"imp0\n", "protocol.bad_pairs_file"),
        (b"imp0 imp1 imp2\n", "protocol.bad_pairs_file"),
        (b"\xff\xfe\n", "protocol.bad_pairs_file"),
        (b"imp0 nobody\n", "dataset.unknown_shape"),
    ],
)
def test_bad_pair_files_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    dataset = named(tmp_path, ["imp0", "imp1"])
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises((InputError, FileFormatError)) as caught:
        read_pairs(tmp_path / "list.txt", dataset)
    assert caught.value.code == code


def test_absent_pair_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / "list.txt", named(tmp_path, ["imp0"]))
    assert caught.value.code == "protocol.missing_pairs_file"


def test_sampling_is_a_repeatable_subset_in_order(tmp_path: Path) -> None:
    pairs = [(f"a{i}", "b") for i in range(50)]
    some = sample_pairs(pairs, 7, seed=3)
    assert some == sample_pairs(pairs, 7, seed=3) != sample_pairs(pairs, 7, seed=4)
    assert len(some) == 7 and [p for p in pairs if p in some] == some
    assert sample_pairs(pairs, None) == sample_pairs(pairs, 50) == pairs
    with pytest.raises(ConfigError) as caught:
        sample_pairs(pairs, 0)
    assert caught.value.code == "protocol.bad_max_pairs"


@pytest.mark.data
def test_ten_faust_pairs_with_seed_0_are_the_published_ten(data_root: Path) -> None:
    file = data_root / "shapes" / "pairs_faust_10.txt"
    if not file.is_file():
        pytest.skip("no pair list there")
    dataset = open_dataset(data_root / "shapes" / "FAUST")
    ten = sample_pairs(protocol_pairs(dataset, "faust_r")[1], 10, seed=0)
    assert set(ten) == set(read_pairs(file, dataset))


def test_identical_pair_is_kept(tmp_path: Path) -> None:
    write_npz(tmp_path / "imp0.npz", icosphere(0), [0])
    dataset = open_dataset(tmp_path)
    (tmp_path / "list.txt").write_text("imp0 imp0\n")
    assert read_pairs(tmp_path / "list.txt", dataset) == [("imp0", "imp0")]
