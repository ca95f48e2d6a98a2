"""ZoomOut against a plain loop; its schedule, its limits, its side-by-side form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation

from geo3d.errors import Cancelled, InputError
from geo3d.mesh.sampling import farthest_point_samples
from geo3d.spectral.basis import Basis, eigenbasis
from geo3d.spectral.fmap import p2p_to_fmap
from geo3d.spectral.zoomout import sizes, zoomout, zoomout_hypotheses


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((3, 6, 1), [3, 4, 5, 6]),
        ((12, 40, 10), [12, 22, 40]),
        ((20, 20, 5), [20]),
        ((20, 23, 5), [20, 23]),
        ((20, 25, 5), [20, 25]),
        ((1, 2, 1), [1, 2]),
    ],
)
def test_schedules(ends: tuple[int, int, int], expected: list[int]) -> None:
    assert sizes(*ends) == expected


def test_schedules_in_general() -> None:
    for first in (1, 4, 11):
        for last in range(first, first + 30):
            for step in range(1, 12):
                found = sizes(first, last, step)
                gaps = np.diff(found)
                assert found[0] in (first, last) and found[-1] == last
                assert (gaps > 0).all() and (gaps <= 2 * step).all()


@pytest.mark.parametrize("ends", [(0, 5, 1), (6, 5, 1), (3, 5, 0)])
def test_impossible_schedules_are_refused(ends: tuple[int, int, int]) -> None:
    with pytest.raises(InputError) as caught:
        sizes(*ends)
    assert caught.value.code == "zoomout.bad_sizes"


def pair(k: int = 40) -> tuple[Basis, Basis, torch.Tensor]:
    """Return bases of a shape and of a moved, shuffled copy, and the true map."""
    mesh = bumpy_sphere(2)
    copy, order = permuted(moved(mesh, rotation(1)), seed=3)
    return eigenbasis(mesh, k), eigenbasis(copy, k), torch.from_numpy(order)


def noisy_start(one: Basis, two: Basis, truth: torch.Tensor, k: int) -> torch.Tensor:
    noise = torch.randn(k, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return p2p_to_fmap(truth, one.truncate(k), two.truncate(k)) + 0.05 * noise


def test_a_plain_loop_gives_the_same() -> None:
    one, two, truth = pair()
    start = noisy_start(one, two, truth, 6)
    found, p2p_21 = zoomout(start, one, two, 18, 4)
    phi_1, phi_2, mass = (x.numpy() for x in (one.evecs, two.evecs, two.mass))

    def to_vertices(fmap: np.ndarray) -> np.ndarray:
        k2, k1 = fmap.shape
        embedded = phi_1[:, :k1] @ fmap.T
        gaps = ((phi_2[:, None, :k2] - embedded[None]) ** 2).sum(-1)
        return gaps.argmin(axis=1)

    fmap = start.numpy()
    for k in (6, 10, 14, 18):
        images = to_vertices(fmap)
        fmap = phi_2[:, :k].T @ (mass[:, None] * phi_1[images, :k])
    np.testing.assert_allclose(found, fmap, atol=1e-10)
    np.testing.assert_array_equal(p2p_21, to_vertices(fmap))


def test_a_noisy_start_grows_into_the_exact_map() -> None:
    one, two, truth = pair()
    start = noisy_start(one, two, truth, 8)
    found, p2p_21 = zoomout(start, one, two, 40, 2)
    assert torch.equal(p2p_21, truth)
    torch.testing.assert_close(found.T @ found, torch.eye(40).double(), atol=1e-6, rtol=0)


def test_rectangular_starts_are_taken() -> None:
    one, two, truth = pair()
    start = noisy_start(one, two, truth, 10)[:, :8]
    _, p2p_21 = zoomout(start, one, two, 40, 2)
    assert torch.equal(p2p_21, truth)


def test_order_of_the_target_does_not_matter() -> None:
    one, two, truth = pair()
    start = noisy_start(one, two, truth, 8)
    _, expected = zoomout(start, one, two, 20, 4)
    order = torch.randperm(162, generator=torch.Generator().manual_seed(5))
    shuffled = Basis(two.evals, two.evecs[order], two.mass[order])
    _, found = zoomout(start, one, shuffled, 20, 4)
    assert torch.equal(found, expected[order])


def test_samples_lead_to_the_same_map() -> None:
    one, two, truth = pair()
    mesh = bumpy_sphere(2)
    copy, _ = permuted(moved(mesh, rotation(1)), seed=3)
    samples = (
        torch.from_numpy(farthest_point_samples(mesh, 100)),
        torch.from_numpy(farthest_point_samples(copy, 100)),
    )
    start = noisy_start(one, two, truth, 8)
    found, p2p_21 = zoomout(start, one, two, 40, 2, samples=samples)
    assert found.shape == (40, 40)
    assert float((p2p_21 == truth).double().mean()) > 0.98


def test_side_by_side_is_one_by_one() -> None:
    one, two, truth = pair()
    starts = torch.stack([noisy_start(one, two, truth, 6), noisy_start(one, two, truth.flip(0), 6)])
    rows = one.evecs[:90], two.evecs[:90]
    together = zoomout_hypotheses(starts, *rows, [6, 9, 12])
    for i in range(2):
        alone = zoomout_hypotheses(starts[i : i + 1], *rows, [6, 9, 12])[0]
        torch.testing.assert_close(together[i], alone)


def test_side_by_side_reads_maps_off_by_least_squares() -> None:
    one, two, truth = pair()
    start = noisy_start(one, two, truth, 6)
    rows_1, rows_2 = one.evecs[:80].numpy(), two.evecs[20:110].numpy()
    found = zoomout_hypotheses(start[None], one.evecs[:80], two.evecs[20:110], [9])[0]
    embedded = rows_1[:, :6] @ start.numpy().T
    gaps = ((rows_2[:, None, :6] - embedded[None]) ** 2).sum(-1)
    images = rows_1[gaps.argmin(axis=1), :9]
    expected = np.linalg.lstsq(rows_2[:, :9], images, rcond=None)[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_functions_without_a_sample_are_no_error() -> None:
    """A small separate part may hold no sample: its own function is zero on all of them."""
    one, two, truth = pair()
    rows_2 = two.evecs[:80].clone()
    rows_2[:, 4] = 0.0
    start = noisy_start(one, two, truth, 4)
    found = zoomout_hypotheses(start[None], one.evecs[:80], rows_2, [4, 8])
    assert torch.isfinite(found).all()


def test_sizes_beyond_bases_or_samples_are_refused() -> None:
    one, two, truth = pair(20)
    start = noisy_start(one, two, truth, 8)
    few = torch.arange(15), torch.arange(100)
    for arguments, samples in (((one, two, 21), None), ((one, two.truncate(10), 12), None)):
        with pytest.raises(InputError) as caught:
            zoomout(start, *arguments, samples=samples)
        assert caught.value.code == "zoomout.bad_sizes"
    with pytest.raises(InputError) as caught:
        zoomout(start, one, two, 20, samples=few)
    assert caught.value.code == "zoomout.bad_sizes"
    with pytest.raises(InputError) as caught:
        zoomout(start, one, two, 7)
    assert caught.value.code == "zoomout.bad_sizes"


def test_progress_is_told_and_may_cancel() -> None:
    one, two, truth = pair()
    start = noisy_start(one, two, truth, 8)
    events: list[Mapping[str, Any]] = []
    zoomout(start, one, two, 20, 4, progress=events.append)
    assert [(e["step"], e["total"]) for e in events] == [(i, 4) for i in (1, 2, 3, 4)]
    assert [e["metrics"]["k"] for e in events] == [8, 12, 16, 20]

    def stop(event: Mapping[str, Any]) -> None:
        if event["step"] == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        zoomout(start, one, two, 20, 4, progress=stop)


def test_sizes_start_at_the_smaller_side_of_a_rectangular_map() -> None:
    one, two, truth = pair()
    start = noisy_start(one, two, truth, 12)[:, :8]
    events: list[Mapping[str, Any]] = []
    zoomout(start, one, two, 16, progress=events.append)
    # by steps of 1 unless asked otherwise
    assert [e["metrics"]["k"] for e in events] == [8, 9, 10, 11, 12, 13, 14, 15, 16]
    some = torch.arange(80)
    for finish, expected in ((2, [8, 11, 14, 14, 16]), (99, [8, 8, 12, 16])):
        events.clear()
        zoomout(start, one, two, 16, 3, samples=(some, some), finish=finish, progress=events.append)
        assert [e["metrics"]["k"] for e in events] == expected


@pytest.mark.parametrize(
    ("finish", "step", "sampled", "whole"),
    [
        (0, 1, range(8, 21), [20]),
        (7, 1, range(8, 14), [13, 20]),
        (8, 3, [8, 12], [12, 16, 20]),
        (12, 5, [8], [8, 13, 20]),
        (99, 2, [8], [8, 12, 16, 20]),
    ],
)
def test_what_is_sampled_and_what_is_finished(
    finish: int, step: int, sampled: Iterable[int], whole: list[int]
) -> None:
    one, two, truth = pair()
    samples = torch.arange(100), torch.arange(60, 162)
    events: list[Mapping[str, Any]] = []
    start = noisy_start(one, two, truth, 8)
    zoomout(start, one, two, 20, step, samples=samples, finish=finish, progress=events.append)
    seen = [(e["stage"], e["step"], e["total"], e["metrics"]["k"]) for e in events]
    few = list(sampled)
    assert seen == [
        *(("ZoomOut on samples", i, len(few), k) for i, k in enumerate(few, 1)),
        *(("ZoomOut", i, len(whole), k) for i, k in enumerate(whole, 1)),
    ]


def test_sampled_passes_finish_on_all_vertices() -> None:
    mesh = bumpy_sphere(3)
    basis = eigenbasis(mesh, 40, cache=False)
    start = torch.eye(8, dtype=torch.float64)
    some = torch.arange(0, mesh.n_vertices, 3)
    fmap, p2p = zoomout(start, basis, basis, 40, samples=(some, some), finish=16)
    # the sizes on all vertices: 24, 28, 32, 36, 40
    sampled = zoomout_hypotheses(
        start[None], basis.evecs[some], basis.evecs[some], sizes(8, 24, 1)
    )[0]
    expected, _ = zoomout(sampled, basis, basis, 40, 4)
    torch.testing.assert_close(fmap, expected)
    assert (p2p == torch.arange(mesh.n_vertices)).float().mean() > 0.99
