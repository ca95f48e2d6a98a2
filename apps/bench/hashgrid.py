"""Seconds to encode points and to go back, by implementation of the hash grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from apps.bench.measuring import medians
from geo3d.fields.hashgrid import encode_reference
from geo3d.fields.hashgrid_fast import encode_fast
from geo3d.fields.levels import HashGridConfig, row_count
from geo3d.progress import ProgressCallback, ignore_progress, tell_each

POINTS = 262_144
LOG2_ROWS = (15, 19)
Encode = Callable[[Tensor, Tensor, HashGridConfig], Tensor]


def bench_hashgrid(
    repeats: int = 3,
    seed: int = 0,
    points: int = POINTS,
    progress: ProgressCallback = ignore_progress,
) -> list[dict[str, Any]]:
    """Time 16 levels of 2 features, resolutions 16 to 2048, on random points, float32, on the CPU.

    Both run once more first, as that is when the compiled grid compiles.
    """
    rows = []
    for log2_rows in tell_each(LOG2_ROWS, progress, "hash grids"):
        config = HashGridConfig(16, 2, 16, 2048, log2_rows)
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(points, 3, generator=generator)
        table = torch.rand(row_count(config), 2, generator=generator).requires_grad_()
        upstream = torch.rand(points, config.width, generator=generator)
        rounds = []
        for _ in range(repeats + 1):
            # in turns, so that a busy moment of the machine meets both
            plain = _passes(encode_reference, x, table, config, upstream)
            rounds.append((*plain, *_passes(encode_fast, x, table, config, upstream)))
        torch_forward, torch_both, forward, both = medians(rounds)
        rows.append(
            {
                "rows": f"2^{log2_rows}",
                "threads": torch.get_num_threads(),
                "torch forward s": torch_forward,
                "torch both s": torch_both,
                "numba forward s": forward,
                "numba both s": both,
                "times faster forward": torch_forward / forward,
                "times faster both": torch_both / both,
            }
        )
    return rows


def _passes(
    encode: Encode, x: Tensor, table: Tensor, config: HashGridConfig, upstream: Tensor
) -> tuple[float, float]:
    table.grad = None
    start = time.perf_counter()
    out = encode(x, table, config)
    middle = time.perf_counter()
    out.backward(upstream)
    return middle - start, time.perf_counter() - start
