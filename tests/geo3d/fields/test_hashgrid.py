"""Hash grids: rows worked out by hand, gradients, and the compiled twin."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from geo3d import backends
from geo3d.errors import BackendUnavailable, ConfigError
from geo3d.fields import hashgrid_gpu
from geo3d.fields.hashgrid import (
    PRIMES,
    Backend,
    HashGrid,
    chosen_backend,
    encode,
    encode_reference,
)
from geo3d.fields.hashgrid_fast import encode_fast
from geo3d.fields.hashgrid_gpu import can_encode, tinycudann_encoding, tinycudann_settings
from geo3d.fields.levels import HashGridConfig, grid_levels, row_count

SMALL = HashGridConfig(4, 2, 4, 40, 8)


def table_of(config: HashGridConfig, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(row_count(config), config.features, generator=generator, dtype=dtype)


def points_of(count: int, dtype: torch.dtype = torch.float32, dim: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(count, dim, generator=generator, dtype=dtype)


def test_published_hash_value() -> None:
    # (1, 1, 1): 1 ^ 2654435761 ^ 805459861 = 2922720805, modulo 2^19
    assert (1 ^ PRIMES[1] ^ PRIMES[2]) % 2**19 == 339493


def test_published_sizes_of_a_street_cell() -> None:
    config = HashGridConfig(10, 4, 16, 8192, 21, convention="gridencoder")
    assert row_count(config) == 14_995_560
    assert [level.rows for level in grid_levels(config)[:3]] == [4920, 35944, 274632]
    assert [level.hashed for level in grid_levels(config)] == [False] * 3 + [True] * 7


def test_one_dense_level_by_hand() -> None:
    # base 2: scale 1, position x + 1/2; a table that counts x corners gives back floor and fraction
    config = HashGridConfig(1, 1, 2, 2, 10, convention="gridencoder")
    table = torch.zeros(row_count(config), 1, dtype=torch.float64)
    table[:27, 0] = torch.arange(27, dtype=torch.float64) % 3
    x = torch.tensor([[0.0, 0, 0], [0.25, 0.9, 0.1], [1.0, 1, 1]], dtype=torch.float64)
    found = encode_reference(x, table, config)[:, 0]
    torch.testing.assert_close(found, x[:, 0] + 0.5)


def test_outside_the_box_is_zero_only_for_gridencoder() -> None:
    outside = torch.tensor([[1.2, 0.5, 0.5]])
    config = HashGridConfig(4, 2, 4, 40, 8, convention="gridencoder")
    assert not encode_reference(outside, table_of(config), config).any()
    assert encode_reference(outside, table_of(SMALL), SMALL).all()


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("convention", ["gridencoder", "tcnn"])
def test_gradients_by_differences(convention: str, interpolation: str) -> None:
    config = HashGridConfig(
        2, 2, 3, 7, 4, convention=convention, interpolation=interpolation
    )  # fmt: skip
    points = (points_of(5, torch.float64) * 0.9 + 0.05).requires_grad_()
    table = table_of(config, torch.float64).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda p, t: encode_reference(p, t, config), (points, table), eps=1e-7)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        # each number of features is compiled anew, which takes longer than the test
        HashGridConfig(3, 2, 5, 30, 7, convention="gridencoder", align_corners=True),
        pytest.param(
            HashGridConfig(3, 1, 5, 30, 7, convention="gridencoder", align_corners=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            HashGridConfig(5, 4, 4, 60, 9, interpolation="smoothstep"), marks=pytest.mark.slow
        ),
        pytest.param(
            HashGridConfig(3, 8, 5, 30, 7, convention="gridencoder", grid="tiled"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda c: f"{c.convention} {c.grid} {c.features}",
)
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_twin(config: HashGridConfig, threads: int) -> None:
    points, table = points_of(9000), table_of(config)
    points[:50] = points[:50] * 2 - 0.5
    upstream = torch.randn(9000, config.width, generator=torch.Generator().manual_seed(3))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for function in (encode_reference, encode_fast):
            leaves = points.clone().requires_grad_(), table.clone().requires_grad_()
            out = function(*leaves, config)
            out.backward(upstream)
            results.append((out, *(leaf.grad for leaf in leaves)))
    finally:
        torch.set_num_threads(before)
    for slow, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=2e-3)


def test_the_sum_does_not_depend_on_threads() -> None:
    grids = []
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            table = table_of(SMALL).requires_grad_()
            encode_fast(points_of(9000), table, SMALL).square().sum().backward()
        finally:
            torch.set_num_threads(before)
        grids.append(table.grad)
    assert torch.equal(*grids)


def test_choice_of_backend() -> None:
    flat = HashGridConfig(2, 2, 4, 8, 8, dim=2)
    points = points_of(3, dim=2)
    torch.testing.assert_close(
        encode(points, table_of(flat), flat), encode(points, table_of(flat), flat, "torch")
    )
    with pytest.raises(ConfigError, match="numba"):
        encode(points, table_of(flat), flat, "numba")
    assert encode(points_of(0), table_of(SMALL), SMALL).shape == (0, SMALL.width)


def test_module_starts_small_and_the_same_for_a_seed() -> None:
    made = [HashGrid(SMALL, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(made[0].table, made[1].table)
    assert made[0].table.abs().max() <= 1e-4
    assert made[0](points_of(4)).shape == (4, SMALL.width)


@pytest.mark.parametrize(
    "wrong", [{"features": 3}, {"dim": 1}, {"finest": 2}, {"align_corners": True}, {"levels": 0}]
)
def test_settings_that_make_no_grid(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="hash grid"):
        HashGridConfig(**wrong)


def test_tiny_cuda_nn_settings() -> None:
    settings = tinycudann_settings(SMALL)
    assert settings["per_level_scale"] == pytest.approx(10 ** (1 / 3))
    with pytest.raises(ConfigError, match="gridencoder"):
        tinycudann_settings(HashGridConfig(convention="gridencoder"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tiny_cuda_nn_is_missing_with_a_name() -> None:
    with pytest.raises(BackendUnavailable, match="tinycudann"):
        encode(points_of(3), table_of(SMALL), SMALL, "tinycudann")
    assert not can_encode(SMALL)
    assert chosen_backend("auto", SMALL, "cuda") == "torch"


def test_a_library_that_breaks_at_import_is_missing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        # what tiny-cuda-nn raises without a GPU that fits: no ImportError
        raise OSError("Unknown compute capability")

    monkeypatch.setattr(backends, "available", lambda name: backends.Availability(True, "", "", ""))
    monkeypatch.setattr(backends.importlib, "import_module", broken)
    with pytest.raises(BackendUnavailable, match="compute capability"):
        tinycudann_encoding.__wrapped__(SMALL)


class Encoding(torch.nn.Module):
    """What stands in for tiny-cuda-nn's module: the same interface, computed by the reference."""

    def __init__(self, dim: int, settings: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.config = HashGridConfig(
            settings["n_levels"],
            settings["n_features_per_level"],
            settings["base_resolution"],
            log2_rows=settings["log2_hashmap_size"],
            dim=dim,
            interpolation=settings["interpolation"].lower(),
            grid=settings["type"].lower(),
            per_level_scale=settings["per_level_scale"],
        )
        size = row_count(self.config) * self.config.features
        self.params = torch.nn.Parameter(torch.zeros(size, dtype=dtype))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return encode_reference(points, self.params.view(-1, self.config.features), self.config)


def encoded(config: HashGridConfig, backend: Backend) -> list[torch.Tensor]:
    """Return encoded points and the gradients of table and points."""
    points, table = points_of(500).requires_grad_(), table_of(config).requires_grad_()
    out = encode(points, table, config, backend)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(3)))
    assert points.grad is not None and table.grad is not None
    return [out.detach(), points.grad, table.grad]


TWINS = [SMALL, HashGridConfig(5, 4, 4, 60, 9, interpolation="smoothstep", grid="tiled")]


@pytest.mark.parametrize("config", TWINS, ids=["hash", "tiled"])
def test_tables_are_lent_to_tiny_cuda_nn(
    config: HashGridConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(Encoding=Encoding)
    monkeypatch.setattr(hashgrid_gpu, "require", lambda name: made)
    monkeypatch.setattr(hashgrid_gpu, "_GPU", torch.device("cpu"))
    tinycudann_encoding.cache_clear()
    try:
        for ours, theirs in zip(
            encoded(config, "torch"), encoded(config, "tinycudann"), strict=True
        ):
            torch.testing.assert_close(theirs, ours)
        assert tinycudann_encoding(config).params.numel() == 0
        with pytest.raises(ConfigError, match="gridencoder"):
            encode(
                points_of(1),
                table_of(SMALL),
                HashGridConfig(4, convention="gridencoder"),
                "tinycudann",
            )
    finally:
        tinycudann_encoding.cache_clear()


@pytest.mark.skipif(not can_encode(SMALL), reason="needs an NVIDIA GPU and tiny-cuda-nn")
@pytest.mark.parametrize("config", TWINS, ids=["hash", "tiled"])
def test_tiny_cuda_nn_gives_the_same_numbers(config: HashGridConfig) -> None:
    for ours, theirs in zip(encoded(config, "torch"), encoded(config, "tinycudann"), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=2e-3)


def test_strides_of_tiled_grids_by_hand() -> None:
    """Levels that outgrow their rows too (case `tiled_grid`)."""
    # 3 and 5 corners per side; tiled levels have base^3 rows at most
    config = HashGridConfig(2, 1, 3, log2_rows=10, grid="tiled", per_level_scale=5 / 3)
    levels = grid_levels(config)
    assert [(level.resolution, level.rows) for level in levels] == [(3, 27), (5, 27)]
    # tiny-cuda-nn goes on past the end of the table, gridencoder stops there
    assert levels[1].strides == (1, 5, 25)
    huge = HashGridConfig(1, 1, 1626, log2_rows=10, grid="tiled", per_level_scale=1.0)
    # 1626^3 does not fit into 32 bits: every point reads the first row
    assert grid_levels(huge)[0].strides == (0, 0, 0)
    small = HashGridConfig(1, 1, 30, 30, 7, convention="gridencoder", grid="tiled")
    assert grid_levels(small)[0].strides == (1, 31, 0)
