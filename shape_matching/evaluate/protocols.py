"""The pair lists under which the literature reports shape matching, as functions of a dataset.

A pair is (source, target); the map that is scored goes from target vertices to source vertices.

=============== ================================================================================
faust_r         unordered pairs of tr_reg_080..099: 190 (AttentiveFMaps, DiffuMatch)
faust_400       all ordered pairs of the same shapes, the 20 identical ones included (ULRSSM
                family); the same method reads up to 5 % lower there
scape_r         unordered pairs of the last 20 of the 71 shapes: 190
shrec16         the pairs (whole, partial) that have a .baryc_gt file
shrec19_r       the pairs that have a .map file, without the partial shape 40
smal_r          test shapes (test_cat.txt or test.txt, else cougar, hippo, horse), unordered pairs
dt4d_intra      unordered pairs inside each category (test.txt where present), without pumpkinhulk
dt4d_inter      pairs across categories that a cross-category file relates, without pumpkinhulk
tosca           ordered pairs inside cat, dog, horse, wolf
tosca_centaur   unordered pairs of centaurs
families        ordered pairs inside every family found
pairs_file      ``pairs.txt`` beside the shapes, "A B" per line
all             unordered pairs of comparable shapes
=============== ================================================================================

Sources: arXiv 2209.15031 (AttentiveFMaps), 2304.14419 (ULRSSM), 2507.23715 (DiffuMatch) and the
loaders published with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np

from geo3d.errors import ConfigError, FileFormatError, InputError
from shape_matching.evaluate.datasets import BARYCENTRIC, SMAL_ONLY, Dataset

Pair = tuple[str, str]
"""(source, target) shape names."""

FAUST_TEST = tuple(f"tr_reg_{i:03d}" for i in range(80, 100))
TOSCA_TEST_FAMILIES = ("cat", "dog", "horse", "wolf")
SMAL_TEST_FAMILIES = ("cougar", "hippo", "horse")
SCAPE_COUNT, SCAPE_TEST_COUNT = 71, 20
SHREC19_PARTIAL = "40"
DT4D_IGNORED = "pumpkinhulk"


def faust_r(dataset: Dataset) -> list[Pair]:
    """Return the 190 unordered FAUST test pairs."""
    _require(dataset, FAUST_TEST)
    return list(combinations(FAUST_TEST, 2))


def faust_400(dataset: Dataset) -> list[Pair]:
    """Return all 400 ordered FAUST test pairs, identical shapes included."""
    _require(dataset, FAUST_TEST)
    return [(a, b) for a in FAUST_TEST for b in FAUST_TEST]


def scape_r(dataset: Dataset) -> list[Pair]:
    """Return the 190 unordered pairs of the last 20 SCAPE shapes."""
    names = dataset.families.get("scape", ())
    if len(names) not in (SCAPE_COUNT, SCAPE_TEST_COUNT):
        raise _missing(f"{SCAPE_COUNT} SCAPE shapes mesh000..mesh071 (or the last 20)", dataset)
    return list(combinations(names[-SCAPE_TEST_COUNT:], 2))


def shrec16(dataset: Dataset) -> list[Pair]:
    """Return the pairs of a whole and a partial shape with a .baryc_gt file."""
    found = [pair for pair, path in dataset.pair_maps.items() if path.suffix == BARYCENTRIC]
    if not found:
        raise _missing("files <shape>.baryc_gt beside shapes named after a whole one", dataset)
    return found


def shrec19_r(dataset: Dataset) -> list[Pair]:
    """Return the pairs with a .map file, without the partial shape 40."""
    found = [pair for pair, path in dataset.pair_maps.items() if path.suffix != BARYCENTRIC]
    if not found:
        raise _missing("files corres/<a>_<b>.map", dataset)
    return [pair for pair in found if SHREC19_PARTIAL not in pair]


def smal_r(dataset: Dataset) -> list[Pair]:
    """Return unordered pairs of the SMAL test shapes, across categories too."""
    listed = _listed(dataset, "test_cat.txt") or _listed(dataset, "test.txt")
    chosen = listed or tuple(
        name for family in SMAL_TEST_FAMILIES for name in dataset.families.get(family, ())
    )
    if len(chosen) < 2:
        raise _missing("shapes of cougar, hippo, horse", dataset)
    return list(combinations(chosen, 2))


def dt4d_intra(dataset: Dataset) -> list[Pair]:
    """Return unordered pairs inside each DeformingThings4D category."""
    groups = _dt4d_groups(dataset)
    return [pair for names in groups.values() for pair in combinations(names, 2)]


def dt4d_inter(dataset: Dataset) -> list[Pair]:
    """Return pairs across DeformingThings4D categories that have a cross-category file."""
    groups = _dt4d_groups(dataset)
    if not dataset.bridges:
        raise _missing("files corres/cross_category_corres/<a>_<b>.vts", dataset)
    return [
        pair for a, b in dataset.bridges for pair in product(groups.get(a, ()), groups.get(b, ()))
    ]


def tosca(dataset: Dataset) -> list[Pair]:
    """Return ordered pairs inside the TOSCA families cat, dog, horse, wolf."""
    present = [name for name in TOSCA_TEST_FAMILIES if name in dataset.families]
    if not present:
        raise _missing("shapes of cat, dog, horse or wolf", dataset)
    return _inside(dataset, present)


def tosca_centaur(dataset: Dataset) -> list[Pair]:
    """Return unordered pairs of the TOSCA centaurs."""
    names = dataset.families.get("centaur", ())
    if len(names) < 2:
        raise _missing("centaur shapes", dataset)
    return list(combinations(names, 2))


def families(dataset: Dataset) -> list[Pair]:
    """Return ordered pairs inside every family that has at least two shapes."""
    return _inside(dataset, dataset.families)


def pairs_file(dataset: Dataset) -> list[Pair]:
    """Return the pairs of ``pairs.txt`` beside the shapes."""
    return read_pairs(dataset.root / "pairs.txt", dataset)


def all_pairs(dataset: Dataset) -> list[Pair]:
    """Return unordered pairs of all shapes whose ground truth is comparable."""
    if dataset.shared_ground_truth or not dataset.has_truth_files:
        return list(combinations(dataset.names, 2))
    return [pair for names in dataset.families.values() for pair in combinations(names, 2)]


PROTOCOLS: dict[str, Callable[[Dataset], list[Pair]]] = {
    "faust_r": faust_r,
    "faust_400": faust_400,
    "scape_r": scape_r,
    "shrec16": shrec16,
    "shrec19_r": shrec19_r,
    "smal_r": smal_r,
    "dt4d_intra": dt4d_intra,
    "dt4d_inter": dt4d_inter,
    "tosca": tosca,
    "tosca_centaur": tosca_centaur,
    "families": families,
    "pairs_file": pairs_file,
    "all": all_pairs,
}


def protocol_pairs(dataset: Dataset, protocol: str = "auto") -> tuple[str, list[Pair]]:
    """Return the name of the protocol used and its pairs; ``auto`` chooses by content.

    Raises:
        ConfigError: ``protocol.unknown``, ``protocol.ambiguous``.
        InputError: ``protocol.missing_shapes``, ``protocol.no_pairs``, ``protocol.bad_pairs_file``.
    """
    name = choose_protocol(dataset) if protocol == "auto" else protocol
    if name not in PROTOCOLS:
        raise ConfigError(
            "protocol.unknown", f"There is no protocol '{name}'.", f"Known: {', '.join(PROTOCOLS)}."
        )
    pairs = PROTOCOLS[name](dataset)
    if not pairs:
        raise InputError(
            "protocol.no_pairs", f"Protocol {name} gives no pair in {dataset.root}.", "Add shapes."
        )
    return name, pairs


def choose_protocol(dataset: Dataset) -> str:
    """Return the protocol that the folder's content calls for.

    Raises:
        ConfigError: ``protocol.ambiguous`` when several published sets lie together.
    """
    if (dataset.root / "pairs.txt").is_file():
        return "pairs_file"
    found, names = dataset.families, set(dataset.names)
    is_smal = bool(SMAL_ONLY & found.keys())
    suffixes = {path.suffix for path in dataset.pair_maps.values()}
    fits = {
        "shrec16": BARYCENTRIC in suffixes,
        "shrec19_r": bool(suffixes - {BARYCENTRIC}),
        "dt4d_intra": bool(dataset.bridges),
        "smal_r": is_smal,
        "faust_r": names.issuperset(FAUST_TEST),
        "scape_r": len(found.get("scape", ())) in (SCAPE_COUNT, SCAPE_TEST_COUNT),
        "tosca": not suffixes
        and not is_smal
        and any(name in found for name in TOSCA_TEST_FAMILIES),
    }
    fitting = [name for name, does in fits.items() if does]
    if len(fitting) > 1:
        raise ConfigError(
            "protocol.ambiguous",
            f"{dataset.root} holds shapes of several protocols: {', '.join(fitting)}.",
            "Choose one with --protocol, or point --data at one of its folders.",
        )
    return fitting[0] if fitting else "all"


def read_pairs(path: str | Path, dataset: Dataset) -> list[Pair]:
    """Return the pairs of a text file: "A B" per line (A is the source), # starts a comment.

    Raises:
        InputError: ``protocol.missing_pairs_file``, ``dataset.unknown_shape``.
        FileFormatError: ``protocol.bad_pairs_file``.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(
            "protocol.missing_pairs_file", f"{path} cannot be read: {error.strerror}.", ""
        ) from error
    except UnicodeDecodeError as error:
        raise FileFormatError("protocol.bad_pairs_file", f"{path} is not text.", "") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 2:
            raise FileFormatError(
                "protocol.bad_pairs_file",
                f"{path.name}, line {number}: expected two shape names, found {len(words)} words.",
                'Each line reads "SOURCE TARGET".',
            )
        pairs.append((dataset.file(words[0]).name, dataset.file(words[1]).name))
    return pairs


def sample_pairs(pairs: Sequence[Pair], max_pairs: int | None, seed: int = 0) -> list[Pair]:
    """Return at most ``max_pairs`` of the pairs, drawn without replacement, in their first order.

    Raises:
        ConfigError: ``protocol.bad_max_pairs``.
    """
    if max_pairs is None or (max_pairs >= len(pairs) and max_pairs > 0):
        return list(pairs)
    if max_pairs < 1:
        raise ConfigError("protocol.bad_max_pairs", f"max_pairs is {max_pairs}.", "Give 1 or more.")
    chosen = np.random.default_rng(seed).choice(len(pairs), max_pairs, replace=False)
    return [pairs[i] for i in sorted(chosen)]


def _inside(dataset: Dataset, names: Iterable[str]) -> list[Pair]:
    return [pair for name in names for pair in permutations(dataset.families[name], 2)]


def _require(dataset: Dataset, names: Sequence[str]) -> None:
    lacking = [name for name in names if name not in dataset.names]
    if lacking:
        raise _missing(f"{len(lacking)} of its shapes, first {lacking[0]}", dataset)


def _listed(dataset: Dataset, file_name: str) -> tuple[str, ...]:
    """Return the shapes a list beside the meshes names, or nothing without such a list."""
    path = dataset.root / file_name
    if not path.is_file():
        return ()
    return tuple(dataset.file(line).name for line in path.read_text(encoding="utf-8").split())


def _dt4d_groups(dataset: Dataset) -> dict[str, list[str]]:
    if not any("/" in name for name in dataset.names):
        raise _missing("category folders off/<category>/", dataset)
    chosen = set(_listed(dataset, "test.txt") or dataset.names)
    return {
        family: [name for name in names if name in chosen]
        for family, names in dataset.families.items()
        if family != DT4D_IGNORED
    }


def _missing(what: str, dataset: Dataset) -> InputError:
    return InputError(
        "protocol.missing_shapes",
        f"{dataset.root} lacks {what}.",
        "Point --data at the whole set, or choose --protocol all.",
    )
