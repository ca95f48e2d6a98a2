"""What the feature network is fed: operators and inputs, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import rotation
from prepared_helpers import random_prepared

from geo3d.errors import InputError
from geo3d.spectral.descriptors import hks, unit_norm, wks
from shape_matching.prior.feature_network import (
    canonical,
    input_values,
    least_squares,
    surface,
)


def test_operators_on_all_vertices_and_on_samples() -> None:
    shape = random_prepared(1)
    whole, some = surface(shape, 5, None), surface(shape, 5, 20)
    assert torch.equal(whole.evals, shape.basis.evals[:5]) and torch.equal(some.evals, whole.evals)
    assert torch.equal(whole.evecs, shape.basis.evecs[:, :5])
    torch.testing.assert_close(whole.pull, (whole.evecs * shape.basis.mass[:, None]).T)
    assert torch.equal(some.evecs, shape.basis.evecs[shape.samples[:20], :5])
    assert shape.slopes is not None and whole.gradients and some.gradients
    for axis in (0, 1):
        assert torch.equal(whole.gradients[axis], shape.slopes[axis][:, :5])
        expected = shape.slopes[axis][shape.samples[:20], :5]
        assert torch.equal(some.gradients[axis], expected)
    torch.testing.assert_close(some.pull, least_squares(some.evecs))


def test_least_squares_has_a_small_ridge() -> None:
    rows = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    wide = rows.double().numpy()
    gram = wide.T @ wide
    ridge = 1e-5 * np.trace(gram) / 3 * np.eye(3)
    np.testing.assert_allclose(
        least_squares(rows), np.linalg.inv(gram + ridge) @ wide.T, rtol=1e-5, atol=1e-7
    )
    # a rank of 1: without the ridge there is no answer, with ten times as much another one
    thin = torch.ones(2, 2)
    np.testing.assert_allclose(least_squares(thin), 0.25, rtol=2e-5)


def test_inputs_side_by_side() -> None:
    shape = random_prepared(1, k=140, subdivisions=2)
    basis = shape.basis.truncate(128)
    signatures = {
        "wks": unit_norm(wks(basis, 128), basis.mass),
        "hks": unit_norm(hks(basis, 128), basis.mass),
        "xyz": torch.from_numpy(shape.mesh.vertices.copy()).float(),
    }
    for kind in ("wks", "hks", "xyz"):
        torch.testing.assert_close(input_values(shape, kind, None, None), signatures[kind])
    coordinates = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    smooth = shape.basis.evecs[:, :6] @ coordinates
    found = input_values(shape, "coordinates+wks", 11, coordinates)
    expected = torch.cat([smooth, signatures["wks"]], dim=1)[shape.samples[:11]]
    torch.testing.assert_close(found, expected)
    with pytest.raises(InputError) as caught:
        input_values(shape, "coordinates", None, None)
    assert caught.value.code == "zero_shot.no_initial_map"


def test_canonical_positions_have_principal_axes_and_positive_peaks() -> None:
    # the constant's row says where the shape lies, and does not count
    positions = torch.tensor([[90.0, 5.0, -70.0], [0.0, -3.0, 0.0], [2.0, 0.0, 0.0], [0, 0, -1.0]])
    found = canonical(positions)
    expected = torch.tensor([[5.0, 90.0, 70.0], [-3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0, 0, 1.0]])
    expected[:, 0] *= -1
    torch.testing.assert_close(found, expected)
    turned = canonical(positions @ torch.from_numpy(rotation(4)).float())
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-4)
