"""Maps between generated shapes: what they are, how they are stored, continued and refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.bench.prior_maps import compare, real_maps, statistics
from geo3d.errors import Cancelled, ConfigError, FileFormatError, InputError, NumericalError
from geo3d.spectral.basis import eigenbasis
from geo3d.synth.creatures import KINDS
from geo3d.work import shards
from shape_matching.prior import data as prior_data
from shape_matching.prior.data import make_prior_data
from shape_matching.prior.families import PriorDataConfig, family, family_maps
from shape_matching.prior.map_shards import load_maps, load_provenance, map_shards

KIND = map_shards(())
SMALL = PriorDataConfig(creatures=3, seed=5, members=2, vertices=1500, k=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior_data, "FAMILIES_PER_SHARD", 2)
        make_prior_data(SMALL, folder)
    return folder


def digest(folder: Path, number: int) -> str:
    return hashlib.sha256(shards.shard_path(KIND, folder, number).read_bytes()).hexdigest()


def copied(made: Path, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for path in made.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_map_is_the_projection_of_the_carried_basis() -> None:
    config = replace(SMALL, remeshed=1.0, relatives=1.0)
    batch = family_maps(config, 1)
    _, (one, two) = family(config, 1)
    phi = [eigenbasis(m.mesh, 20, cache=False) for m in (one, two)]
    evecs, mass = [b.evecs.numpy() for b in phi], [b.mass.numpy() for b in phi]
    # by hand: each vertex of the target takes the value at its body point on the source
    for row, (i, j, source, target) in enumerate(((0, 1, one, two), (1, 0, two, one))):
        carried = np.array([evecs[i][source.vertex_ids[t]] for t in target.template_ids])
        expected = evecs[j].T @ (mass[j][:, None] * carried)
        np.testing.assert_allclose(batch.fmaps[row].astype(float), expected, atol=2e-3)
        np.testing.assert_allclose(batch.evals_source[row], phi[i].evals, rtol=1e-6)
        np.testing.assert_allclose(batch.evals_target[row], phi[j].evals, rtol=1e-6)


def test_shapes_have_unit_area_and_the_settings_shares() -> None:
    same = replace(SMALL, remeshed=0.0, relatives=0.0, amplitude=(0.0, 0.0), members=3)
    creature, members = family(same, 0)
    for member in members:
        assert (member.amount, member.amplitude, member.is_remeshed) == (0.0, 0.0, False)
        assert np.array_equal(member.template_ids, np.arange(creature.rest.n_vertices))
    batch = family_maps(same, 0)
    # three times the rest pose: identities
    np.testing.assert_allclose(batch.fmaps.astype(float), np.tile(np.eye(20), (6, 1, 1)), atol=2e-3)
    np.testing.assert_allclose(batch.evals_source[:, 0], 0.0, atol=1e-3)
    changed = replace(same, remeshed=1.0, relatives=1.0, amount=(0.1, 0.2))
    for member in family(changed, 0)[1]:
        assert member.is_remeshed and 0.1 <= member.amount <= 0.2
        assert 900 <= member.mesh.n_vertices <= 3200


def test_the_first_function_is_carried_to_itself(made: Path) -> None:
    maps = load_maps(made, 20)
    np.testing.assert_allclose(maps[:, 0, 0], 1.0, atol=1e-3)
    assert np.abs(maps[:, 1:, 0]).max() < 1e-3
    # columns of a map between closed shapes have norm at most about 1
    assert np.sqrt((maps**2).sum(axis=1)).max() < 1.3


def test_loading_crops_and_takes_absolute_values(made: Path) -> None:
    maps = load_maps(made, 8)
    assert maps.shape == (6, 8, 8) and maps.dtype == np.float32 and maps.min() >= 0
    with np.load(shards.shard_path(KIND, made, 0)) as stored:
        assert stored["fmaps"].dtype == np.float16 and stored["fmaps"].min() < 0
        assert np.array_equal(maps[:4], np.abs(stored["fmaps"][:, :8, :8]))
        assert not any(stored[name].dtype.hasobject for name in stored.files)


def test_provenance_has_a_row_per_map(made: Path) -> None:
    columns = load_provenance(made)
    assert columns["creature"].tolist() == [0, 0, 1, 1, 2, 2]
    assert columns["source"].tolist() == [0, 1] * 3 and columns["target"].tolist() == [1, 0] * 3
    assert columns["evals_source"].shape == (6, 20)
    assert np.array_equal(columns["amount_source"][0::2], columns["amount_target"][1::2])
    kinds = [KINDS.index(family(SMALL, i)[0].kind) for i in (0, 2)]
    assert [int(columns["kind"][0]), int(columns["kind"][4])] == kinds


def test_shards_depend_on_the_seed_alone(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(prior_data, "FAMILIES_PER_SHARD", 2)
    # two workers, and a folder that grows
    make_prior_data(replace(SMALL, creatures=2), tmp_path / "grown", workers=1)
    first = digest(tmp_path / "grown", 0)
    assert first == digest(made, 0)
    make_prior_data(SMALL, tmp_path / "grown", workers=2)
    assert [digest(tmp_path / "grown", n) for n in (0, 1)] == [digest(made, n) for n in (0, 1)]
    other = family_maps(replace(SMALL, seed=6), 0)
    assert not np.array_equal(other.fmaps, family_maps(SMALL, 0).fmaps)


def test_sound_shards_are_kept_and_damaged_ones_made_again(
    made: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(prior_data, "FAMILIES_PER_SHARD", 2)
    folder = copied(made, tmp_path / "maps")
    shards.shard_path(KIND, folder, 1).write_bytes(
        shards.shard_path(KIND, folder, 1).read_bytes()[:-500]
    )
    with pytest.raises(FileFormatError, match=r"shards\.bad_shard"):
        load_maps(folder, 8)
    before = shards.shard_path(KIND, folder, 0).stat().st_mtime_ns
    make_prior_data(SMALL, folder)
    assert shards.shard_path(KIND, folder, 0).stat().st_mtime_ns == before
    assert digest(folder, 1) == digest(made, 1)


def test_a_failing_creature_is_recorded(monkeypatch: Any) -> None:
    maps_of = family_maps

    def flawed(config: PriorDataConfig, number: int) -> Any:
        if number == 1:
            raise NumericalError("creature.no_surface", "No surface.", "")
        if number == 2:
            raise ZeroDivisionError("unforeseen")
        return maps_of(config, number)

    monkeypatch.setattr(prior_data, "family_maps", flawed)
    batch, failed = prior_data._shard(SMALL, 0, [0, 1, 2])
    assert len(batch) == 2
    assert failed[1].startswith("creature.no_surface") and "unforeseen" in failed[2]


def test_other_settings_are_refused(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "maps")
    with pytest.raises(InputError, match=r"work\.other_folder.*seed"):
        make_prior_data(replace(SMALL, seed=9), folder)


def test_a_listener_may_cancel_and_no_index_is_left(tmp_path: Path) -> None:
    def cancel(event: Mapping[str, Any]) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        make_prior_data(SMALL, tmp_path, progress=cancel)
    with pytest.raises(InputError, match=r"shards\.no_index"):
        load_maps(tmp_path, 8)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99, "shards": [], "columns": []}'])
def test_a_damaged_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"shards\.bad_index"):
        load_provenance(tmp_path)


def test_an_index_cannot_point_outside(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "maps")
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    index["shards"][0]["file"] = "../maps-0000.npz"
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"shards\.bad_index"):
        load_maps(folder, 8)


def test_sizes_and_empty_folders_are_refused(made: Path, tmp_path: Path) -> None:
    for size in (0, 21):
        with pytest.raises(InputError, match=r"prior_data\.bad_size"):
            load_maps(made, size)
    index = {"format": 1, "shards": [], "columns": [], "settings": {}}
    (tmp_path / "index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(InputError, match=r"shards\.empty"):
        load_maps(tmp_path, 8)


@pytest.mark.parametrize(
    "change",
    [{"members": 1}, {"vertices": 1000}, {"amount": (0.3, 0.1)}, {"remeshed": 1.5}, {"k": 0}],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"config\.bad_value"):
        PriorDataConfig(**change)


def test_statistics_and_correlation_by_hand() -> None:
    maps = np.tile(np.eye(6, dtype=np.float32), (4, 1, 1))
    maps[:, 0, 5] = 1.0
    found = statistics(maps)
    assert found["n"] == 4 and found["diagonal_2"] == 1.0
    assert found["near_diagonal"] == pytest.approx(6 / 7)
    assert found["rms"] == pytest.approx(np.sqrt(7 / 36))
    generated, real = compare(maps, {"same": 2 * maps})
    assert "correlation" not in generated
    assert real["correlation"] == pytest.approx(1) and real["off_diagonal"] == pytest.approx(1)


def test_maps_of_real_shapes_are_grouped_and_nearly_diagonal(tmp_path: Path) -> None:
    _, members = family(replace(SMALL, remeshed=0.0, relatives=0.0, members=3), 0)
    for member, name in zip(members, ("tr_reg_000", "tr_reg_001", "tr_reg_010"), strict=True):
        corr = np.arange(member.mesh.n_vertices, dtype=np.int32)
        np.savez(
            tmp_path / f"{name}.npz",
            verts=member.mesh.vertices.astype(np.float32),
            faces=member.mesh.faces.astype(np.int32),
            corr=corr,
            corr_sym=corr,
        )
    maps = real_maps(tmp_path, 12)
    assert {label: len(found) for label, found in maps.items()} == {
        "faust 00x": 2,
        "between subjects": 2,
    }
    for found in maps.values():
        assert found.shape[1:] == (12, 12)
        assert statistics(found)["near_diagonal"] > 0.8
