"""How each kind of golden case of sparse layers, latents and extraction is checked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.spatial import KDTree
from torch import Tensor, nn

from scenes.objects.decoders import (
    SLatDecoderConfig,
    SLatGaussianDecoder,
    SLatMeshDecoder,
    SLatRadianceFieldDecoder,
)
from scenes.objects.flexicubes import dense_cubes, flexicubes
from scenes.objects.gaussians import offset_perturbation
from scenes.objects.neighbours import windows
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.slat_mesh import CubeLayout, extract_mesh
from scenes.objects.sparse import SparseTensor
from scenes.objects.sparse_ops import (
    SparseConv3d,
    SparseGroupNorm32,
    downsample,
    subdivide,
    upsample,
)

Decoder = TypeVar("Decoder", SLatGaussianDecoder, SLatRadianceFieldDecoder, SLatMeshDecoder)


def close(ours: Tensor, theirs: Tensor, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def arguments(path: Path) -> dict[str, Any]:
    """Return the json beside a case."""
    return json.loads(path.with_name(path.name.split(".")[0] + ".json").read_text())


def weights(path: Path) -> dict[str, Tensor]:
    """Return the weights beside a case, in float32."""
    name = path.name.split(".")[0] + ".weights.safetensors"
    return {key: value.float() for key, value in load_file(path.with_name(name)).items()}


@torch.no_grad()
def check_ops(path: Path) -> None:
    data = load_file(path)
    x = SparseTensor(data["feats"], data["coords"])
    close((x * data["broadcast.vec"]).feats, data["broadcast.mul"])
    low = downsample(x)  # by 2, as all levels of the published networks
    assert torch.equal(low.coords, data["down.coords"])
    close(low.feats, data["down.feats"])
    assert torch.equal(upsample(low).coords, data["up.coords"])
    close(upsample(low).feats, data["up.feats"])
    assert torch.equal(subdivide(x).coords, data["sub.coords"])
    close(subdivide(x).feats, data["sub.feats"])
    check_parametrised(x, data)
    for key in data:
        if key.endswith(".seq_lens"):
            name = key.split(".")[0]
            size, shift = map(int, name.removeprefix("win").split("_"))
            parts = windows(x.grid, size, shift)
            assert parts.lengths == data[key].tolist()
            assert torch.equal(parts.window_of_voxel, data[f"{name}.window_id_per_voxel"])
            firsts = torch.tensor([0, *parts.lengths[:-1]]).cumsum(0)
            assert torch.equal(x.batch_index[parts.order[firsts]], data[f"{name}.seq_batch"])


def check_parametrised(x: SparseTensor, data: dict[str, Tensor]) -> None:
    wide, *_, channels = data["subm.weight"].shape
    convolution = SparseConv3d(channels, wide, data["subm.weight"].shape[1])
    convolution.load_state_dict(
        {"conv.weight": data["subm.weight"], "conv.bias": data["subm.bias"]}
    )
    close(convolution(x).feats, data["subm.feats"])
    for name in {key.split(".")[0] for key in data if key.startswith("gn")}:
        norm = SparseGroupNorm32(int(name.removeprefix("gn")), channels)
        norm.load_state_dict({part: data[f"{name}.{part}"] for part in ("weight", "bias")})
        close(norm(x).feats, data[f"{name}.feats"])


@torch.no_grad()
def check_flow(path: Path) -> None:
    data = load_file(path)
    network = SLatFlowModel(SLatFlowConfig(**arguments(path)["args"]))
    network.load_state_dict(weights(path))
    inner: dict[str, SparseTensor] = {}
    packed: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        key = name.replace("blocks.", "block")
        if re.fullmatch(r"(input|out)_blocks\.\d+", name):
            module.register_forward_hook(lambda _m, _i, out, key=key: inner.update({key: out}))
        elif re.fullmatch(r"blocks\.\d+", name):
            # these see the packed features alone
            watch_packed(module, lambda tokens, key=key: packed.update({key: tokens}))
    out = network(SparseTensor(data["feats"], data["coords"]), data["t"], data["cond"])
    for key in (key for key in data if key.startswith("inter.")):
        name, _, part = key.removeprefix("inter.").rpartition("_")
        kept = packed[name] if name in packed else getattr(inner[name], part)
        close(kept, data[key], rtol=1e-4, atol=5e-5)
    assert torch.equal(out.coords, data["out_coords"])
    close(out.feats, data["out_feats"], rtol=1e-4, atol=5e-5)


def watch_packed(module: nn.Module, keep: Callable[[Tensor], None]) -> None:
    """Hand every result of the block's packed form to ``keep``."""
    plain = module.forward_packed

    def watched(*args: Any) -> Tensor:
        out = plain(*args)
        keep(out)
        return out

    module.forward_packed = watched


@torch.no_grad()
def check_gaussians(path: Path) -> None:
    data, network = decoder(path, SLatGaussianDecoder)
    x = SparseTensor(data["feats"], data["coords"])
    check_trunk(network, x, data)
    raw = network.raw(x)
    assert torch.equal(raw.coords, data["raw_coords"])
    close(raw.feats, data["raw_feats"], rtol=1e-4, atol=1e-4)
    if "offset_perturbation" in data:
        close(offset_perturbation(network.shape), data["offset_perturbation"])
    items = network(x)
    assert f"rep{len(items)}._xyz" not in data
    for i, ours in enumerate(items):
        for name, value in {
            "_xyz": ours.unit_xyz,
            "_features_dc": ours.features_dc,
            "_scaling": ours.raw_scaling,
            "_rotation": ours.raw_rotation,
            "_opacity": ours.raw_opacity,
            "get_xyz": ours.xyz,
            "get_scaling": ours.scaling,
            "get_rotation": ours.rotation,
            "get_opacity": ours.opacity,
        }.items():
            close(value, data[f"rep{i}.{name}"], rtol=1e-4, atol=1e-4)
        close(ours.covariance(), data[f"rep{i}.covariance"], rtol=1e-3, atol=1e-7)


@torch.no_grad()
def check_radiance(path: Path) -> None:
    data, network = decoder(path, SLatRadianceFieldDecoder)
    x = SparseTensor(data["feats"], data["coords"])
    check_trunk(network, x, data)
    close(network.raw(x).feats, data["raw_feats"], rtol=1e-4, atol=1e-4)
    items = network(x)
    assert f"rep{len(items)}.position" not in data
    for i, ours in enumerate(items):
        for name in ("position", "depth", "trivec", "density", "features_dc"):
            close(getattr(ours, name), data[f"rep{i}.{name}"], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def check_mesh_decoder(path: Path) -> None:
    data, network = decoder(path, SLatMeshDecoder)
    x = SparseTensor(data["feats"], data["coords"])
    check_trunk(network, x, data)
    raw = network.raw(x)
    assert torch.equal(raw.coords, data["raw_coords"])
    close(raw.feats, data["raw_feats"], rtol=1e-4, atol=1e-4)
    meshes = network(x)
    assert f"rep{len(meshes)}.vertices" not in data
    for i, mesh in enumerate(meshes):
        theirs = data[f"rep{i}.vertices"]
        same_mesh(mesh.vertices, mesh.faces, theirs, data[f"rep{i}.faces"], atol=1e-4)
        assert (mesh.attributes is None) == (f"rep{i}.vertex_attrs" not in data)
        if mesh.attributes is not None:
            places = match(mesh.vertices, theirs, 1e-4)
            expected = data[f"rep{i}.vertex_attrs"][places]
            close(mesh.attributes, expected, rtol=1e-4, atol=1e-4)


def check_trunk(network: nn.Module, x: SparseTensor, data: dict[str, Tensor]) -> None:
    """Check the outputs of the blocks that the case keeps."""
    kept: dict[str, SparseTensor] = {}
    keys = [key for key in data if key.startswith("inter.")]
    handles = []
    for key in keys:
        told = re.fullmatch(r"inter\.block(\d+)_feats", key)
        assert told, f"{key}: not understood"
        block = network.get_submodule(f"blocks.{told[1]}")
        handles.append(
            block.register_forward_hook(
                lambda _module, _inputs, out, key=key: kept.update({key: cast(SparseTensor, out)})
            )
        )
    network(x)
    for handle in handles:
        handle.remove()
    for key in keys:
        close(kept[key].feats, data[key], rtol=1e-4, atol=1e-4)


def decoder(path: Path, kind: type[Decoder]) -> tuple[dict[str, Tensor], Decoder]:
    """Return a case's tensors and its network, with the weights of the case."""
    settings = arguments(path)
    network = kind(SLatDecoderConfig(**settings["args"]))
    if "param_shapes" in settings:
        state = procedural_weights(settings["param_shapes"], settings["seed"])
    else:
        state = weights(path)
    network.load_state_dict(state)
    return load_file(path), network


def procedural_weights(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Draw weights by the recipe of the cases' description."""
    random, state = np.random.RandomState(seed), {}
    for name in sorted(shapes):
        drawn = random.standard_normal(shapes[name])
        if name.endswith("gamma") or (name.endswith("weight") and len(shapes[name]) == 1):
            drawn = 1 + 0.1 * drawn
        elif name.endswith("bias"):
            drawn = 0.1 * drawn
        else:
            drawn = drawn / np.sqrt(np.prod(shapes[name][1:]))
        state[name] = torch.from_numpy(drawn.astype(np.float32).astype(np.float16)).float()
    return state


def check_flexicubes(path: Path) -> None:
    data = load_file(path)
    resolution = round(len(data["scalar_field"]) ** (1 / 3)) - 1
    raw = [data[key] for key in ("beta", "alpha", "gamma_f") if key in data]
    packed = torch.cat([part.reshape(resolution**3, -1) for part in raw], 1) if raw else None
    for prefix in ("", "train."):
        surface = flexicubes(
            data["voxelgrid_vertices"],
            data["scalar_field"],
            dense_cubes(resolution),
            packed,
            data["voxelgrid_colors"].sigmoid() if "voxelgrid_colors" in data else None,
            training=bool(prefix),
        )
        theirs = data[prefix + "vertices"]
        same_mesh(surface.vertices, surface.faces, theirs, data[prefix + "faces"], atol=1e-5)
        close(surface.deviations.sort()[0], data[prefix + "L_dev"].sort()[0])
        if surface.attributes is not None:
            places = match(surface.vertices, theirs, 1e-5)
            close(surface.attributes, data[prefix + "colors"][places])


def check_features_to_mesh(path: Path) -> None:
    data = load_file(path)
    told = re.search(r"_r(\d+)", path.stem)
    assert told, f"{path.name} does not tell the resolution"
    item = SparseTensor(data["feats"], data["coords"])
    layout = CubeLayout(use_color=data["feats"].shape[1] == CubeLayout().channels)
    for prefix in ("", "train."):
        mesh = extract_mesh(item, int(told[1]), layout, training=bool(prefix))
        theirs = data[prefix + "vertices"]
        same_mesh(mesh.vertices, mesh.faces, theirs, data[prefix + "faces"], atol=1e-5)
        assert (mesh.attributes is None) == (prefix + "vertex_attrs" not in data)
        if mesh.attributes is not None:
            places = match(mesh.vertices, theirs, 1e-5)
            close(mesh.attributes, data[prefix + "vertex_attrs"][places])
        if prefix:
            assert mesh.regularity is not None
            assert mesh.points is not None and mesh.distances is not None
            close(mesh.regularity, data["train.reg_loss"])
            close(mesh.points, data["train.tsdf_v"])
            close(mesh.distances, data["train.tsdf_s"])


def match(ours: Tensor, theirs: Tensor, atol: float) -> Tensor:
    """Return for each of our vertices the one of theirs that is there; each is met once."""
    distance, place = KDTree(theirs.numpy()).query(ours.numpy())
    assert len(ours) == len(theirs) and np.max(distance) < 3 * atol
    assert len(np.unique(place)) == len(ours)
    return torch.as_tensor(place)


def same_mesh(
    vertices: Tensor, faces: Tensor, their_vertices: Tensor, their_faces: Tensor, atol: float
) -> None:
    """Check that two meshes differ in the order of vertices and faces alone."""
    places = match(vertices, their_vertices, atol)
    assert rotated(places[faces]) == rotated(their_faces.long())


def rotated(faces: Tensor) -> list[tuple[int, ...]]:
    """Return the faces, each from its least vertex, sorted."""
    rows = (tuple(row) for row in faces.tolist())
    return sorted(row[k:] + row[:k] for row in rows for k in [row.index(min(row))])
