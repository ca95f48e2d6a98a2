"""Networks of golden cases, with every size read off the shapes of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file

from shape_matching.prior.denoiser import Denoiser, DenoiserConfig
from shape_matching.prior.feature_network import DiffusionNet

Shapes = Mapping[str, Sequence[int]]


def shapes_of(path: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors of a file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}


def count_blocks(names: Sequence[str] | Shapes, prefix: str) -> int:
    """Return how many numbered blocks there are: names such as ``prefix`` 0, ``prefix`` 1."""
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})


def denoiser_config(shapes: Shapes, heads: int = 1) -> DenoiserConfig:
    """Return the settings of the denoiser whose weights have these shapes."""
    width, _, patch, _ = shapes["x_embedder.proj.weight"]
    return DenoiserConfig(
        size=patch * math.isqrt(shapes["pos_embed"][1]),
        patch=patch,
        width=width,
        depth=count_blocks(shapes, "blocks."),
        heads=heads,
        mlp_ratio=shapes["blocks.0.mlp.fc1.weight"][0] // width,
    )


def heads_beside(folder: Path, config: DenoiserConfig) -> int:
    """Return the heads that a case of the same network tells; weights do not show them."""
    for path in sorted(folder.glob("dit_*.npz")):
        with np.load(path) as case:
            told = {k: int(case[f"cfg_{k}"]) for k in _TOLD if f"cfg_{k}" in case}
        same = (config.size, config.patch, config.width, config.depth)
        if tuple(told.get(k) for k in _TOLD[:-1]) == same:
            return told["num_heads"]
    raise AssertionError(f"no case in {folder} tells the heads of a network of {config}")


_TOLD = ("input_size", "patch_size", "hidden_size", "depth", "num_heads")


def denoiser_beside(path: Path, size: int) -> Denoiser:
    """Return the denoiser for maps of ``size`` whose weights lie beside ``path``."""
    for weights in sorted(path.parent.glob("dit_*.safetensors")):
        config = denoiser_config(shapes_of(weights))
        if config.size == size:
            heads = heads_beside(path.parent, config)
            network = Denoiser(denoiser_config(shapes_of(weights), heads))
            network.load_state_dict(load_file(weights))
            return network
    raise AssertionError(f"no denoiser for maps of {size} lies beside {path.name}")


def feature_network(shapes: Shapes) -> DiffusionNet:
    """Return the feature network whose weights have these shapes, not loaded."""
    width, channels_in = shapes["first_lin.weight"]
    return DiffusionNet(
        channels_in,
        shapes["last_lin.weight"][0],
        width=width,
        blocks=count_blocks(shapes, "block_"),
        gradient_features=any("gradient_features" in name for name in shapes),
    )


def weights_for(path: Path, pattern: str) -> Path:
    """Return the file of weights beside a case: of the same suffix, else the only one."""
    found = sorted(path.parent.glob(pattern))
    suffix = path.stem.partition("_")[2]
    same = [p for p in found if p.stem.partition("_")[2] == suffix]
    assert same or found, f"no {pattern} lies beside {path.name}"
    return (same or found)[0]


def shape_beside(path: Path, key: str, values: np.ndarray) -> Path:
    """Return the file of operators beside a case whose array ``key`` is closest to ``values``."""
    gaps = {}
    for shape in sorted(path.parent.glob("operators_*.npz")):
        with np.load(shape) as operators:
            if operators[key].shape == values.shape:
                gaps[shape] = float(np.abs(operators[key] - values).max())
    assert gaps, f"no shape beside {path.name} has {key} {values.shape}"
    return min(gaps, key=lambda p: gaps[p])
