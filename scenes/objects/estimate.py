"""Memory and time of a job before it starts, from the sizes of its networks.

Multiplications and additions count one each.  How many voxels an object will have is not known:
a surface in a grid of edge r is taken to fill 2.5 r^2 of them, a sphere of nearly full size.

Notation: n tokens, d width, l tokens of the condition with k channels, r edge of a grid.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scenes.objects.models import describe, outline, parameter_counts
from scenes.objects.pipeline_folder import ALWAYS, DECODERS

if TYPE_CHECKING:
    from scenes.objects.pipeline import GenerateConfig, Pipeline

_SHELL = 2.5
_PER_LEVEL = 3.6
"""Voxels of a surface over those of the grid of half the resolution."""
_NEIGHBOURS = 11
"""Of 27 that are active on a surface."""
_WINDOW = 64
"""Voxels of a surface in a window of the decoders."""
_CONDITION = 1374
"""Tokens of an image."""
_LIVE = 14
"""Activations of the width of a token alive at once in a block."""


def estimate(
    pipeline: Pipeline, config: GenerateConfig, objects: int, flops_per_second: float
) -> dict[str, Any]:
    """Return parameters, bytes and operations per network, and bytes and seconds in all.

    Raises:
        CheckpointError: a network's settings are missing or unknown.
    """
    half = torch.finfo(pipeline.torso).bits // 8
    together = pipeline.device.type != "cpu" if config.together is None else config.together
    batch = config.batch or (1 if pipeline.device.type == "cpu" else objects)
    rows = []
    for key in (*ALWAYS, *(DECODERS[output] for output in config.outputs)):
        if key not in pipeline.networks:
            continue
        description = _description(pipeline.networks[key])
        torso, rest = parameter_counts(description)
        once, activations = _work(description["name"], description["args"])
        passes = {ALWAYS[0]: config.structure, ALWAYS[2]: config.latent}.get(key)
        sampler = passes or (pipeline.samplers[ALWAYS.index(key) // 2] if key in ALWAYS else None)
        is_flow = key in (ALWAYS[0], ALWAYS[2])
        evaluations = sampler.evaluations() if is_flow and sampler else 1
        width = batch * (2 if together else 1) if is_flow else 1
        rows.append(
            {
                "key": key,
                "parameters": torso + rest,
                "bytes": torso * half + rest * 4,
                "activation_bytes": activations * half * width,
                "flops": once * evaluations * objects,
            }
        )
    sizes = [row["bytes"] for row in rows]
    resident = max(sizes) if pipeline.low_memory else sum(sizes)
    flops = sum(row["flops"] for row in rows)
    return {
        "networks": rows,
        "peak_bytes": resident + max(row["activation_bytes"] for row in rows),
        "flops": flops,
        "flops_per_second": flops_per_second,
        "seconds": flops / flops_per_second,
    }


def measured_rate(device: torch.device, dtype: torch.dtype, edge: int = 1024) -> float:
    """Return operations per second of a matrix product on ``device``, measured in a moment."""
    if device.type == "cuda":
        edge *= 8
    a = torch.randn(edge, edge, device=device).to(dtype)
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        product = a @ a
        # Reading a number waits for the device.
        product[0, 0].item()
        best = min(best, time.perf_counter() - begun)
    return 2 * edge**3 / best


def flow_block_flops(n: float, d: int, cond: tuple[int, int], ratio: float) -> float:
    """Return the operations of one block of a flow transformer over ``n`` tokens."""
    tokens, channels = cond
    own = 2 * n * d * 4 * d + 4 * n * n * d
    cross = 2 * n * d * 2 * d + 2 * tokens * channels * 2 * d + 4 * n * tokens * d
    return own + cross + 2 * n * d * 2 * ratio * d


def _description(network: nn.Module | Path) -> dict[str, Any]:
    return describe(outline(network) if isinstance(network, Path) else network)


def _work(name: str, args: dict[str, Any]) -> tuple[float, float]:
    """Return operations of one pass for one object, and numbers alive at once."""
    if name == "SparseStructureDecoder":
        return _decoder_work(args)
    d, blocks = int(args["model_channels"]), int(args["num_blocks"])
    ratio, r = float(args.get("mlp_ratio", 4)), int(args["resolution"])
    if name.startswith("SLat") and name.endswith("Decoder"):
        n = _SHELL * r * r
        flops = blocks * (2 * n * d * (4 + 2 * ratio) * d + 4 * n * _WINDOW * d)
        alive = n * d * _LIVE
        if name == "SLatMeshDecoder":
            for level, (wide, narrow) in enumerate(((d, d // 4), (d // 4, d // 8)), start=1):
                voxels = n * 8**level
                flops += 2 * 2 * _NEIGHBOURS * voxels * narrow * (wide + narrow)
                alive = max(alive, voxels * narrow * 6)
        return flops, alive
    cond = (_CONDITION, int(args["cond_channels"]))
    p = int(args.get("patch_size", 2))
    if name == "SparseStructureFlowModel":
        n = float((r // p) ** 3)
        return blocks * flow_block_flops(n, d, cond, ratio), n * d * _LIVE
    n = _SHELL * r * r
    widths = [*(args.get("io_block_channels") or ()), d]
    flops, count = 0.0, int(args.get("num_io_res_blocks", 2))
    for fine, coarse in pairwise(widths):
        below = n / _PER_LEVEL
        same = 2 * 2 * _NEIGHBOURS * n * fine * fine
        down = 2 * _NEIGHBOURS * below * coarse * (fine + coarse)
        up = 2 * _NEIGHBOURS * n * fine * (2 * coarse + fine)
        flops += 2 * (count - 1) * same * 1.25 + down + up
        n = below
    return flops + blocks * flow_block_flops(n, d, cond, ratio), n * d * _LIVE


def _decoder_work(args: dict[str, Any]) -> tuple[float, float]:
    widths, edge = list(args["channels"]), 16
    flops, alive = 0.0, 0.0
    for level, width in enumerate(widths):
        count = int(args["num_res_blocks"])
        count += int(args.get("num_res_blocks_middle", 2)) if level == 0 else 0
        flops += count * 2 * 2 * 27 * width * width * edge**3
        alive = max(alive, 6.0 * width * edge**3)
        if level + 1 < len(widths):
            flops += 2 * 27 * width * 8 * widths[level + 1] * edge**3
            edge *= 2
    return flops, alive
