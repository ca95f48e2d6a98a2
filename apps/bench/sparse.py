"""Sparse convolution and attention beside dense oracles, and beside spconv where it is installed.

The oracle of the convolution is the dense one over the whole grid, read at the active voxels; that
of attention is one product over all voxels with a mask.  Errors are largest differences over the
largest value.  spconv's wheels for the CPU run forward; backward they ask for a CUDA stream, which
is not used, so `_without_stream` answers.

Notation: n voxels on a spherical shell in a grid of edge r, c channels.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apps.bench.measuring import medians
from geo3d.progress import ProgressCallback, ignore_progress, tell_each
from scenes.objects.attention import attend_packed
from scenes.objects.neighbours import neighbour_pairs, windows
from scenes.objects.sparse import SparseTensor
from scenes.objects.sparse_ops import SubmanifoldConvolution

SIZES = ((16, 32), (32, 32), (32, 128))
"""Edge of the grid and channels."""
ITEMS = 2
HEADS = 4
WINDOW = 8


class Run(NamedTuple):
    """What one way of computing gave."""

    out: Tensor
    gradients: tuple[Tensor, ...]
    forward: float
    """Seconds."""
    backward: float
    """Seconds."""


def bench_sparse(
    sizes: tuple[tuple[int, int], ...] = SIZES,
    max_vertices: int = 100_000,
    repeats: int = 3,
    seed: int = 0,
    progress: ProgressCallback = ignore_progress,
) -> dict[str, list[dict[str, Any]]]:
    """Return tables of errors and times of convolution and attention.

    Args:
        sizes: edges of the grids, and channels.
        max_vertices: cells that a grid may have (a flag of `geo3d bench`).
        repeats: of which medians are taken.
    """
    sizes = tuple(size for size in sizes if size[0] ** 3 <= max_vertices)
    tables: dict[str, list[dict[str, Any]]] = {"submanifold convolution": [], "attention": []}
    for edge, channels in tell_each(sizes, progress, "sparse"):
        x = shell(edge, channels, seed)
        tables["submanifold convolution"] += convolution_rows(x, edge, repeats)
        tables["attention"] += attention_rows(x, repeats)
    return tables


def shell(edge: int, channels: int, seed: int = 0) -> SparseTensor:
    """Return `ITEMS` random features on shells of 0.4 times the edge, of different radii."""
    generator = torch.Generator().manual_seed(seed)
    places = (torch.arange(edge) + 0.5) / edge - 0.5
    radius = torch.stack(torch.meshgrid(places, places, places, indexing="ij")).norm(dim=0)
    active = torch.stack([(radius - 0.4 + 0.05 * i).abs() < 0.8 / edge for i in range(ITEMS)])
    coords = active.nonzero().int()
    return SparseTensor(torch.randn(len(coords), channels, generator=generator), coords, ITEMS)


def convolution_rows(x: SparseTensor, edge: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row per way of convolving ``x``, the dense oracle first."""
    channels = x.feats.shape[1]
    torch.manual_seed(0)
    layer = SubmanifoldConvolution(channels, channels)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "dense oracle": lambda feats, w: _dense_convolution(x.replace(feats), w, bias, edge),
        "ours": lambda feats, w: _ours(layer, x.replace(feats), w),
    }
    if importlib.util.find_spec("spconv") is not None:
        ways["spconv"] = _spconv(x, edge)
    neighbour_pairs(x.grid)
    return _rows(ways, (x.feats, weight), repeats, {"edge": edge, "voxels": len(x)})


def attention_rows(x: SparseTensor, repeats: int) -> list[dict[str, Any]]:
    """Return a row per way of attending within items and within windows."""
    feats = x.feats.unflatten(1, (HEADS, -1))
    inputs = tuple(torch.randn(feats.shape, generator=_generator(i)) for i in range(3))
    parts, size = windows(x.grid, WINDOW, WINDOW // 2), {"voxels": len(x)}

    def windowed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (part[parts.order] for part in (q, k, v))
        return attend_packed(q, k, v, parts.lengths, parts.lengths)[parts.place]

    whole = _masked(x.batch_index)
    rows = _rows(
        {
            "dense oracle, items": whole,
            "ours, items": lambda q, k, v: attend_packed(q, k, v, x.grid.counts, x.grid.counts),
        },
        inputs,
        repeats,
        size,
    )
    ways = {"dense oracle, windows": _masked(parts.window_of_voxel), "ours, windows": windowed}
    return rows + _rows(ways, inputs, repeats, size)


def _rows(
    ways: dict[str, Callable[..., Tensor]],
    inputs: tuple[Tensor, ...],
    repeats: int,
    about: dict[str, Any],
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    oracle: Run | None = None
    for name, way in ways.items():
        done = _run(way, inputs, repeats)
        oracle = oracle or done
        errors = [_error(a, b) for a, b in zip(done.gradients, oracle.gradients, strict=True)]
        rows.append(
            {
                **about,
                "channels": inputs[0].flatten(1).shape[1],
                "way": name,
                "forward ms": round(1e3 * done.forward, 2),
                "backward ms": round(1e3 * done.backward, 2),
                "error": f"{_error(done.out, oracle.out):.1e}",
                "gradient error": f"{max(errors):.1e}",
            }
        )
    return rows


def _run(way: Callable[..., Tensor], inputs: tuple[Tensor, ...], repeats: int) -> Run:
    rounds, out, gradients = [], inputs[0], inputs
    for _ in range(repeats + 1):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        begun = time.perf_counter()
        out = way(*leaves)
        middle = time.perf_counter()
        towards = torch.randn(out.shape, generator=_generator(9))
        with _without_stream():
            gradients = torch.autograd.grad(out, leaves, towards)
        rounds.append((middle - begun, time.perf_counter() - middle))
    return Run(out.detach(), gradients, *medians(rounds))


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ours(layer: SubmanifoldConvolution, x: SparseTensor, weight: Tensor) -> Tensor:
    return torch.func.functional_call(layer, {"weight": weight}, (x,)).feats


def _dense_convolution(
    x: SparseTensor, weight: Float[Tensor, "d 3 3 3 c"], bias: Tensor, edge: int
) -> Tensor:
    item, i, j, k = x.coords.long().unbind(1)
    grid = x.feats.new_zeros(x.batch_size, edge, edge, edge, x.feats.shape[1])
    grid = grid.index_put((item, i, j, k), x.feats).movedim(-1, 1)
    dense = F.conv3d(grid, weight.movedim(-1, 1), bias, padding=1)
    return dense.movedim(1, -1)[item, i, j, k]


def _masked(group: Tensor) -> Callable[..., Tensor]:
    same = group[:, None] == group

    def attend_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = (part.transpose(0, 1) for part in (q, k, v))
        return F.scaled_dot_product_attention(*heads, attn_mask=same).transpose(0, 1)

    return attend_all


def _spconv(x: SparseTensor, edge: int) -> Callable[[Tensor, Tensor], Tensor]:
    spconv: Any = importlib.import_module("spconv.pytorch")
    algorithm: Any = importlib.import_module("spconv.core").ConvAlgo.Native
    channels = x.feats.shape[1]
    # Its inference path asks for CUDA; training mode does not.
    layer = spconv.SubMConv3d(
        channels, channels, 3, bias=False, algo=algorithm, indice_key="shell"
    ).train()
    kept: dict[str, Any] = {}
    # It reads the memory row by row, whatever the strides say, and would find wrong neighbours.
    coords = x.coords.contiguous()

    def convolve(feats: Tensor, weight: Tensor) -> Tensor:
        tensor = spconv.SparseConvTensor(feats, coords, [edge] * 3, x.batch_size)
        tensor.indice_dict = kept
        return torch.func.functional_call(layer, {"weight": weight}, (tensor,)).features

    return convolve


@contextmanager
def _without_stream() -> Iterator[None]:
    stream = SimpleNamespace(cuda_stream=0)
    with patch.object(torch.cuda, "current_stream", lambda *_: stream):
        yield
