"""DiffusionNet: gradients, invariances, dropout, names, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import bumpy_sphere, moved, permuted, rotation, torus

from geo3d.errors import ConfigError, ShapeError
from geo3d.mesh.operators import gradient_operators, tangent_frames
from shape_matching.prior.feature_network import (
    SHORTEST_TIME,
    DiffusionNet,
    Surface,
    input_values,
    soft_map,
    stack_surfaces,
    surface,
)
from shape_matching.search.prepare import prepare

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prepared(mesh, k: int = 24, n_samples: int = 120):
    return prepare(mesh, k, n_samples, "auto", CPU, False)


def small_surface(p: int = 7, k: int = 4, *, batch: tuple[int, ...] = ()) -> Surface:
    draw = generator(3)
    dense = [torch.randn(*batch, p, k, generator=draw, dtype=torch.float64) for _ in range(4)]
    evals = torch.arange(k, dtype=torch.float64).expand(*batch, k)
    return Surface(evals, dense[0], dense[1].mT.contiguous(), (dense[2], dense[3]))


def network(**settings) -> DiffusionNet:
    return DiffusionNet(3, 5, width=8, blocks=2, generator=generator(), **settings)


def test_gradients_are_exact() -> None:
    net = network().double()
    with torch.no_grad():
        for i in range(2):
            net.get_submodule(f"block_{i}").diffusion.diffusion_time.fill_(0.3)
    values = torch.randn(7, 3, generator=generator(1), dtype=torch.float64, requires_grad=True)
    times = torch.full((8,), 0.2, dtype=torch.float64, requires_grad=True)
    weights = net.block_0.mlp.miniMLP_mlp_layer_000.weight.detach().clone().requires_grad_()

    def run(values, times, weights):
        changed = {
            "block_0.diffusion.diffusion_time": times,
            "block_0.mlp.miniMLP_mlp_layer_000.weight": weights,
        }
        return torch.func.functional_call(net, changed, (values, small_surface()))

    assert torch.autograd.gradcheck(run, (values, times, weights))


def test_spectral_gradient_is_the_sparse_one_on_diffused_functions() -> None:
    shape = prepared(torus())
    seen = surface(shape, 20, None)
    coefficients = torch.randn(20, 3, generator=generator())
    smooth = (shape.basis.evecs[:, :20] @ coefficients).double().numpy()
    for axis, operator in zip(
        seen.gradients or (),
        gradient_operators(shape.mesh, tangent_frames(shape.mesh)),
        strict=True,
    ):
        np.testing.assert_allclose(axis @ coefficients, operator @ smooth, atol=1e-3)


def test_diffusion_keeps_the_constant_and_damps_the_rest() -> None:
    shape = prepared(bumpy_sphere(2))
    seen = surface(shape, 20, None)
    net = network()
    diffusion = net.block_0.diffusion
    with torch.no_grad():
        diffusion.diffusion_time.fill_(100.0)
    function = torch.randn(shape.mesh.n_vertices, 8, generator=generator())
    mass = shape.basis.mass[:, None]
    flat = seen.evecs @ diffusion(seen.pull @ function, seen.evals)
    mean = (mass * function).sum(0) / mass.sum()
    torch.testing.assert_close(flat, mean.expand_as(flat), atol=1e-4, rtol=1e-3)


def test_vertex_order_does_not_matter() -> None:
    mesh = bumpy_sphere(2)
    other, order = permuted(mesh)
    net, k = network(), 16
    outputs = []
    for shape in (prepared(mesh), prepared(other)):
        xyz = input_values(shape, "xyz", None, None)
        outputs.append(net(xyz, surface(shape, k, None)))
    torch.testing.assert_close(outputs[1], outputs[0][order], atol=2e-3, rtol=1e-2)


def test_a_moved_shape_looks_the_same_to_intrinsic_inputs() -> None:
    mesh = bumpy_sphere(2)
    net = DiffusionNet(128, 5, width=8, blocks=2, generator=generator())
    outputs = []
    for shape in (prepared(mesh), prepared(moved(mesh, rotation(), 3.0))):
        seen = surface(shape, 16, None)
        outputs.append(net(input_values(shape, "wks", None, None), seen))
    torch.testing.assert_close(outputs[1], outputs[0], atol=2e-3, rtol=1e-2)


@torch.no_grad()
def test_samples_approximate_all_vertices() -> None:
    shape = prepared(bumpy_sphere(3), n_samples=300)
    net, full = network(), surface(shape, 16, None)
    everywhere = net(input_values(shape, "xyz", None, None), full)
    sampled = net(input_values(shape, "xyz", 300, None), surface(shape, 16, 300))
    difference = (sampled - everywhere[shape.samples]).norm()
    assert float(difference / (everywhere - everywhere.mean(0)).norm()) < 0.1


def test_a_batch_equals_its_items() -> None:
    both = small_surface(batch=(2,))
    values = torch.randn(2, 7, 3, generator=generator(), dtype=torch.float64)
    net = network().double()
    items = [
        Surface(both.evals[i], both.evecs[i], both.pull[i], tuple(g[i] for g in both.gradients))
        for i in range(2)
    ]
    alone = torch.stack([net(values[i], items[i]) for i in range(2)])
    torch.testing.assert_close(net(values, both), alone)
    torch.testing.assert_close(net(values, stack_surfaces(items)), alone)


def test_dropout_is_on_only_with_a_generator_and_repeatable() -> None:
    values, seen = torch.ones(7, 3), small_surface()
    seen = Surface(*(x.float() for x in (seen.evals, seen.evecs, seen.pull)), None)
    net = network(gradient_features=False)
    first, second = (net(values, seen, generator(5)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.allclose(first, net(values, seen))
    torch.testing.assert_close(net(values, seen), net(values, seen), rtol=0, atol=0)


def test_dropout_keeps_the_mean() -> None:
    from shape_matching.prior.feature_network import _dropped

    found = _dropped(torch.ones(100_000), generator())
    assert set(found.unique().tolist()) == {0.0, 2.0}
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)


def test_weights_come_from_the_generator_alone() -> None:
    first, second = network(), network()
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    bound = 1 / 3**0.5
    weight = first.first_lin.weight.detach()
    assert 0.8 * bound < float(weight.abs().max()) <= bound


def test_published_size() -> None:
    assert sum(p.numel() for p in DiffusionNet(3, 128).parameters()) == 477_824


def test_negative_times_act_as_the_shortest_and_still_learn() -> None:
    net, seen, values = network().double(), small_surface(), torch.ones(7, 3).double()
    time = net.block_0.diffusion.diffusion_time
    with torch.no_grad():
        time.fill_(SHORTEST_TIME)
    expected = net(values, seen)
    with torch.no_grad():
        time.fill_(-1.0)
    found = net(values, seen)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert time.grad is not None and float(time.grad.abs().max()) > 0
    net.constrain()
    assert float(time.detach().min()) == pytest.approx(SHORTEST_TIME)


def test_errors() -> None:
    seen = small_surface()
    net = network().double()
    with pytest.raises(ShapeError) as caught:
        net(torch.ones(6, 3).double(), seen)
    assert caught.value.code == "feature_network.bad_input"
    with pytest.raises(ShapeError) as caught:
        net(torch.ones(7, 3).double(), replace(seen, gradients=None))
    assert caught.value.code == "feature_network.no_gradients"
    with pytest.raises(ShapeError) as caught:
        stack_surfaces([seen, small_surface(8)])
    assert caught.value.code == "feature_network.unequal_shapes"
    unchecked = getattr(soft_map, "__wrapped__", soft_map)
    with pytest.raises(ConfigError) as caught:
        unchecked(torch.ones(2, 3), torch.ones(2, 3), 1.0, "cosine")
    assert caught.value.code == "feature_network.unknown_soft_map"


def test_soft_map_prefers_the_same_point() -> None:
    points = torch.eye(4, dtype=torch.float64)
    for kind in ("product", "distance"):
        found = soft_map(points, points, 20.0, kind)
        torch.testing.assert_close(found.sum(1), torch.ones(4, dtype=torch.float64))
        assert found.argmax(1).tolist() == [0, 1, 2, 3]
        assert float(found.diagonal().min()) > 0.99


def test_soft_map_gradient() -> None:
    a, b = (
        torch.randn(3, 2, generator=generator(s), dtype=torch.float64, requires_grad=True)
        for s in (0, 1)
    )
    for kind in ("product", "distance"):
        assert torch.autograd.gradcheck(lambda x, y, kind=kind: soft_map(x, y, 2.0, kind), (a, b))
