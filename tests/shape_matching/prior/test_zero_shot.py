"""The per-pair optimisation on small shapes whose maps are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, icosphere, moved, permuted, rotation, torus
from torch import Tensor

from geo3d.config import load_config
from geo3d.errors import Cancelled, ConfigError, Geo3dError
from geo3d.mesh.mesh import Mesh
from geo3d.spectral.fmap import p2p_to_fmap
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig
from shape_matching.prior.feature_network import canonical, input_values
from shape_matching.prior.prior import Prior
from shape_matching.prior.zero_shot import ZeroShotResult, optimise
from shape_matching.prior.zero_shot_config import PRESETS, ZeroShotConfig
from shape_matching.search.prepare import Prepared, prepare

CPU = torch.device("cpu")
SMALL = ZeroShotConfig(
    input="xyz",
    n_points=160,
    features=48,
    width=24,
    blocks=2,
    network_eigenpairs=24,
    map_size=10,
    mask_probes=3,
    steps=4,
    sds_probes=2,
    zoomout_size=14,
    zoomout_step=2,
    zoomout_points=160,
)


def prepared(mesh: Mesh, k: int = 24, n_samples: int = 160) -> Prepared:
    return prepare(mesh, k, n_samples, "auto", CPU, False)


def rotated(shape: Prepared, turn: np.ndarray) -> Prepared:
    """Return the shape with its positions turned; its basis, signs included, stays."""
    moved_shape = prepared(moved(shape.mesh, turn))
    return replace(
        shape,
        mesh=moved_shape.mesh,
        positions=shape.positions @ torch.from_numpy(turn.T).to(shape.positions),
        normals=moved_shape.normals,
    )


def shrink(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma[:, None, None] ** 2)


def run(one: Prepared, two: Prepared, config: ZeroShotConfig = SMALL, **more) -> ZeroShotResult:
    generator = torch.Generator().manual_seed(0)
    return optimise(one, two, more.pop("denoise", shrink), config, generator=generator, **more)


@pytest.fixture(scope="module")
def pair() -> tuple[Prepared, Prepared, Tensor, Tensor]:
    """A bumpy sphere, its shuffled copy, and the true maps both ways."""
    mesh = bumpy_sphere(2)
    other, order = permuted(mesh)
    one, two = prepared(mesh), prepared(other)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    true_12 = p2p_to_fmap(torch.from_numpy(order), one.basis, two.basis)
    true_21 = p2p_to_fmap(torch.from_numpy(back), two.basis, one.basis)
    return one, two, true_12, true_21


@pytest.mark.parametrize("mask", ["laplacian", "resolvent", "posterior", "diffusion", "none"])
def test_a_copy_is_found_from_positions(pair, mask: str) -> None:
    one, two, true_12, true_21 = pair
    found = run(one, two, replace(SMALL, mask=mask, steps=25, w_sds=0.0))
    assert float((found.fmap_12 - true_12[:10, :10]).norm()) < 0.5
    assert float((found.fmap_21 - true_21[:10, :10]).norm()) < 0.5


def test_the_proper_loss_falls(pair) -> None:
    one, two = pair[:2]
    bent = prepared(Mesh(two.mesh.vertices * [1.0, 1.0, 1.4], two.mesh.faces))
    history = run(one, bent, replace(SMALL, steps=30, w_sds=0.0)).history
    assert history[-1]["proper"] < 0.5 * history[0]["proper"]


def test_same_generator_same_maps(pair) -> None:
    one, two = pair[:2]
    config = replace(SMALL, dropout=True, input="xyz+wks")
    first, second = run(one, two, config), run(one, two, config)
    assert torch.equal(first.fmap_12, second.fmap_12)
    assert first.history == second.history


def test_carried_coordinates_depend_on_no_rotation() -> None:
    mesh = bumpy_sphere(2)
    one, two = prepared(mesh), prepared(Mesh(mesh.vertices * [1.0, 1.0, 1.4], mesh.faces))
    same = torch.arange(mesh.n_vertices)
    initial = p2p_to_fmap(same, one.basis, two.basis), p2p_to_fmap(same, two.basis, one.basis)
    config = replace(SMALL, input="coordinates")
    found = run(one, two, config, initial_fmaps=initial)
    turned = run(
        rotated(one, rotation(1)), rotated(two, rotation(2)), config, initial_fmaps=initial
    )
    assert found.history[-1]["proper"] > 1e-4
    torch.testing.assert_close(turned.fmap_12, found.fmap_12, atol=1e-3, rtol=0)
    assert turned.history[-1]["proper"] == pytest.approx(found.history[-1]["proper"], rel=1e-2)


def test_positions_do_depend_on_rotation(pair) -> None:
    one, two = pair[:2]
    turned = run(one, rotated(two, rotation(2)))
    assert float((turned.fmap_12 - run(one, two).fmap_12).abs().max()) > 0.1


def test_carried_coordinates_are_those_of_the_source(pair) -> None:
    one, two, true_12, _ = pair
    first = canonical(one.positions)
    seen_1 = input_values(one, "coordinates", None, first)
    seen_2 = input_values(two, "coordinates", None, true_12 @ first)
    order = torch.cdist(two.basis.evecs @ true_12, one.basis.evecs).argmin(1)
    torch.testing.assert_close(seen_2, seen_1[order], atol=1e-3, rtol=1e-2)


def test_shapes_of_different_sizes_on_all_vertices() -> None:
    one, two = prepared(bumpy_sphere(2)), prepared(bumpy_sphere(3))
    config = replace(SMALL, n_points=None, zoomout_points=None, steps=20, w_sds=0.0)
    found = run(one, two, config)
    # a finer copy in the same place: nearly the identity up to signs
    assert float(found.fmap_12.diagonal().abs().mean()) > 0.9


def test_point_clouds_go_without_gradients() -> None:
    mesh = bumpy_sphere(3)
    cloud = Mesh(mesh.vertices, np.zeros((0, 3), np.int64), name="cloud")
    found = run(prepared(mesh), prepared(cloud), replace(SMALL, steps=20, w_sds=0.0))
    assert float(found.fmap_12.diagonal().abs().mean()) > 0.8


def test_listeners_hear_every_step_and_may_stop(pair) -> None:
    one, two = pair[:2]
    events, shown = [], []
    found = run(
        one, two, replace(SMALL, show_every=2), progress=events.append,
        on_step=lambda step, fmap, losses: shown.append((step, fmap, losses)),
    )  # fmt: skip
    assert [event["step"] for event in events] == [1, 2, 3, 4]
    assert set(events[0]["metrics"]) == {"proper", "sds", "loss"}
    assert [step for step, _, _ in shown] == [0, 2]
    assert shown[0][1].shape == (10, 10) and shown[1][2] == found.history[2]

    def stop(event) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run(one, two, progress=stop)


def test_a_plateau_ends_it_and_the_best_map_is_kept(pair) -> None:
    one, two = pair[:2]
    still = replace(SMALL, rate=1e-9, patience=3, steps=20, w_sds=0.0, mask="laplacian")
    found = run(one, two, still)
    assert found.stopped == "plateau" and len(found.history) == 4 and found.kept_step == 0
    assert run(one, two, replace(still, keep="last")).kept_step == 3
    everything = run(one, two, replace(still, patience=0, steps=6))
    assert everything.stopped == "steps" and len(everything.history) == 6


def test_losses_add_up_by_their_weights(pair) -> None:
    one, two = pair[:2]
    weights = {
        "w_proper": 2.0,
        "w_sds": 0.5,
        "w_orthogonal": 0.1,
        "w_bijective": 0.2,
        "w_laplacian": 0.01,
    }
    losses = run(one, two, replace(SMALL, steps=1, **weights)).history[0]
    expected = sum(weight * losses[name[2:]] for name, weight in weights.items())
    assert losses["loss"] == pytest.approx(expected, rel=1e-5)


def test_isometry_terms_vanish_on_a_perfect_map(pair) -> None:
    one, two, true_12, true_21 = pair
    config = replace(
        SMALL, input="coordinates", n_points=None, steps=1, w_orthogonal=1.0, w_bijective=1.0,
        network_eigenpairs=20,
    )  # fmt: skip
    losses = run(one, two, config, initial_fmaps=(true_12, true_21)).history[0]
    # the features of a copy are copies, so least squares find the true map
    assert losses["orthogonal"] < 1e-2 and losses["bijective"] < 1e-2


def test_static_mask_uses_the_priors_statistics(pair) -> None:
    one, two = pair[:2]
    network = Denoiser(DenoiserConfig(size=10, patch=5, width=16, depth=1, heads=2))
    from geo3d.distill.preconditioning import EDM

    moment = (torch.eye(10) + 0.01).tolist()
    prior = Prior(network, EDM(), {"second_moment": moment})
    config = replace(SMALL, mask="static", w_sds=0.0, loss_map="regularised", mask_weight=1e3)
    found = run(one, two, config, denoise=prior)
    off_diagonal = found.fmap_12 - torch.diag(found.fmap_12.diagonal())
    assert float(off_diagonal.abs().max()) < 0.05
    for other in (prior.denoise, Prior(network, EDM())):
        with pytest.raises(Geo3dError) as caught:
            run(one, two, config, denoise=other)
        assert caught.value.code == "zero_shot.no_second_moment"


def test_presets_are_the_published_settings() -> None:
    published = load_config(ZeroShotConfig, preset="published")
    assert (published.mask_weight, published.steps, published.w_sds, published.w_proper) == (
        0.1, 300, 1.0, 1.0,
    )  # fmt: skip
    assert (published.zoomout_size, published.zoomout_points, published.zoomout_step) == (
        40, None, 1,
    )  # fmt: skip
    assert (published.sds_probes, published.mask_probes, published.dropout) == (32, 200, True)
    assert published.sds_form == "released" and published.patience == 0
    paper = load_config(ZeroShotConfig, preset="paper")
    assert (paper.mask_weight, paper.steps, paper.w_sds) == (1e-3, 1000, 0.1)
    assert set(PRESETS) == {"cpu", "single", "published", "paper"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"plateau": 1.0}, "plateau"),
        ({"sds_sigma": (1.0, 0.1)}, "sds_sigma"),
        ({"zoomout_size": 5}, "zoomout_size"),
        ({"n_points": 40}, "n_points"),
        ({"w_laplacian": -1.0}, "w_laplacian"),
        ({"rate": 0.0}, "rate"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(SMALL, **change)


def test_what_cannot_be_optimised_is_refused(pair) -> None:
    one, two, true_12, true_21 = pair
    coordinates = replace(SMALL, input="coordinates")
    bare = replace(SMALL, input="coordinates", zoomout_size=30, network_eigenpairs=20)
    for code, config, more in (
        ("zero_shot.no_initial_map", coordinates, {}),
        (
            "zero_shot.bad_initial_map",
            coordinates,
            {"initial_fmaps": (true_12[:8, :8], true_21)},
        ),
        ("zero_shot.too_small", bare, {"initial_fmaps": (true_12, true_21)}),
        ("zero_shot.diverged", SMALL, {"denoise": lambda x, sigma: x * float("nan")}),
    ):
        with pytest.raises(Geo3dError) as caught:
            run(one, two, config, **more)
        assert caught.value.code == code


def test_hks_and_symmetric_shapes_do_not_fail() -> None:
    for mesh in (icosphere(2), torus()):
        found = run(prepared(mesh), prepared(mesh), replace(SMALL, input="hks", steps=2))
        assert bool(torch.isfinite(found.fmap_12).all())
