"""Golden checks take cases of other sizes: written here with our own code, then read as any case.

What is shown is that sizes, counts and settings are read from the case, not that numbers are right.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import (
    cases_mdt_sparse,
    cases_mdt_training,
    cases_prior,
    cases_spectral,
    cases_topology,
    cases_urban_fields,
)
from golden.test_golden_mdt_dense import check_embeddings
from helpers import bumpy_sphere, grid
from safetensors.torch import save_file
from torch import Tensor

from geo3d.distill.preconditioning import EDM, IDDPM, VE, denoise
from geo3d.fields.hashgrid import encode_reference
from geo3d.fields.levels import HashGridConfig, grid_levels, row_count
from geo3d.mesh.mesh import Mesh
from geo3d.mesh.operators import gradient_operators, laplacian, tangent_frames
from geo3d.mesh.ops import normalized
from geo3d.spectral.basis import eigenbasis
from geo3d.spectral.descriptors import hks, unit_norm, wks
from geo3d.topology.betti import betti_numbers
from geo3d.work.gradients import Clipper, gradient_norm
from scenes.objects.decoders import SLatDecoderConfig, SLatMeshDecoder
from scenes.objects.embeddings import patchify, position_sinusoids, time_sinusoids, unpatchify
from scenes.objects.gaussians import hammersley
from scenes.objects.slat_mesh import CubeLayout, extract_mesh
from scenes.objects.sparse import SparseTensor
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig, sinusoids


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_denoiser_of_another_size(tmp_path: Path) -> None:
    config = DenoiserConfig(size=24, patch=4, width=32, depth=2, heads=2, mlp_ratio=3)
    network = Denoiser(config, torch.Generator().manual_seed(0))
    weights = {n: draw(*t.shape, seed=len(n)) * 0.1 for n, t in network.state_dict().items()}
    weights["pos_embed"] = network.pos_embed.data.clone()
    network.load_state_dict(weights)
    save_file(weights, tmp_path / "dit_small.safetensors")
    x, t = draw(3, 1, 24, 24), torch.tensor([1.0, 20.0, 400.0])
    sigma, iddpm = torch.tensor([0.1, 1.0, 9.0]), IDDPM(steps=100)
    case = {
        "x": x, "t": t, "sigma": sigma, "sigma_edm": sigma, "t_freq": sinusoids(t),
        "t_embed": network.t_embedder(t), "patch_tokens": network.x_embedder(x),
        "pos_embed": network.pos_embed, "out": network(x, t), "iddpm_u": iddpm.levels(),
        "iddpm_index": iddpm.nearest_level(sigma), "D_iddpm": denoise(network, iddpm, x, sigma),
        "D_iddpm_sigma1p5_broadcast": denoise(network, iddpm, x, torch.full((3,), 1.5)),
        "D_edm": denoise(network, EDM(0.5), x, sigma), "D_ve": denoise(network, VE(), x, sigma),
    }  # fmt: skip
    told = {"input_size": 24, "patch_size": 4, "hidden_size": 32, "depth": 2, "num_heads": 2}
    arrays = {name: value.numpy() for name, value in case.items()}
    np.savez(tmp_path / "dit_forward.npz", **arrays, **{f"cfg_{k}": v for k, v in told.items()})
    cases_prior.check_weights(tmp_path / "dit_small.safetensors")
    cases_prior.check_forward(tmp_path / "dit_forward.npz")
    names = [f"{n} {tuple(p.shape)}" for n, p in network.named_parameters()]
    total = sum(p.numel() for p in network.parameters())
    trained = total - network.pos_embed.numel()
    layout = tmp_path / "dit_x4_layout.npz"
    np.savez(layout, names=names, n_params=total, n_trainable=trained)
    cases_prior.check_layout(layout)


def test_other_embedding_tables(tmp_path: Path) -> None:
    t, coords = torch.tensor([0.0, 3.5, 999.0]), torch.randint(0, 9, (7, 3))
    x, y = draw(1, 2, 8, 8, 8), draw(2, 64, 2, 2, 2)
    tables = {
        "t": t, "coords": coords, "x": x, "y": y, "t_freq64": time_sinusoids(t, 64),
        "ape30": position_sinusoids(coords, 30), "ape100": position_sinusoids(coords, 100),
        "patchify4": patchify(x, 4), "pixel_shuffle_3d_4": unpatchify(y, 4),
        "hammersley3_5": torch.tensor([hammersley(i, 5) for i in range(5)]),
    }  # fmt: skip
    save_file({n: v.contiguous() for n, v in tables.items()}, tmp_path / "tables.safetensors")
    check_embeddings(tmp_path / "tables.safetensors")


def test_a_clipper_without_a_largest_norm(tmp_path: Path) -> None:
    clipper, grads = Clipper(None, 50.0, 4), draw(12, 3)
    rows: dict[str, list[Tensor]] = {"clipped": [], "grad_norm": [], "max_norm_after": []}
    for row in grads:
        mine = row.clone()
        norm = gradient_norm([mine])
        clipper.clip([mine], norm)
        limit = float("nan") if clipper.limit is None else clipper.limit
        for name, value in zip(rows, (mine, norm, torch.tensor(limit)), strict=True):
            rows[name].append(value)
    tensors = {name: torch.stack(values) for name, values in rows.items()}
    save_file({"grads": grads, **tensors}, tmp_path / "clip.safetensors")
    settings = {"max_norm": None, "clip_percentile": 50, "buffer_size": 4}
    (tmp_path / "clip.json").write_text(json.dumps(settings))
    cases_mdt_training.check_clipper(tmp_path / "clip.json")


def some_voxels(channels: int, items: int, edge: int) -> SparseTensor:
    rows = [
        torch.tensor([i, a, b, c])
        for i in range(items)
        for a in range(1 + i, edge)
        for b in range(2)
        for c in range(2)
    ]
    return SparseTensor(draw(len(rows), channels), torch.stack(rows).int())


@torch.no_grad()
def test_a_mesh_decoder_without_colours_and_with_several_items(tmp_path: Path) -> None:
    args = {
        "resolution": 4, "model_channels": 256, "latent_channels": 3, "num_blocks": 2,
        "num_heads": 2, "mlp_ratio": 1, "representation_config": {"use_color": False},
    }  # fmt: skip
    network = SLatMeshDecoder(SLatDecoderConfig(**args))
    state = {n: (draw(*t.shape, seed=len(n)) / 16).half() for n, t in network.state_dict().items()}
    network.load_state_dict({n: t.float() for n, t in state.items()})
    save_file(state, tmp_path / "mesh_grey.weights.safetensors")
    (tmp_path / "mesh_grey.json").write_text(json.dumps({"args": args}))
    x = some_voxels(3, 2, 4)
    kept: list[SparseTensor] = []
    handles = [
        block.register_forward_hook(lambda _m, _i, out: kept.append(out))
        for block in network.blocks
    ]
    raw, meshes = network.raw(x), network(x)
    for handle in handles:
        handle.remove()
    case = {"feats": x.feats, "coords": x.coords, "raw_feats": raw.feats, "raw_coords": raw.coords}
    case |= {f"inter.block{i}_feats": kept[i].feats for i in range(2)}
    for i, mesh in enumerate(meshes):
        case |= {f"rep{i}.vertices": mesh.vertices, f"rep{i}.faces": mesh.faces}
    case = {name: value.contiguous().clone() for name, value in case.items()}
    save_file(case, tmp_path / "mesh_grey.io.safetensors")
    cases_mdt_sparse.check_mesh_decoder(tmp_path / "mesh_grey.io.safetensors")


@torch.no_grad()
def test_features_without_colours_become_a_mesh(tmp_path: Path) -> None:
    layout = CubeLayout(use_color=False)
    item = some_voxels(layout.channels, 1, 6)
    case = {"feats": item.feats, "coords": item.coords}
    for prefix in ("", "train."):
        mesh = extract_mesh(item, 9, layout, training=bool(prefix))
        case |= {f"{prefix}vertices": mesh.vertices, f"{prefix}faces": mesh.faces}
        if prefix:
            assert mesh.regularity is not None
            assert mesh.points is not None and mesh.distances is not None
            case |= {"train.reg_loss": mesh.regularity, "train.tsdf_v": mesh.points}
            case["train.tsdf_s"] = mesh.distances
    path = tmp_path / "sparse2mesh_r9_grey.safetensors"
    save_file({name: value.contiguous().clone() for name, value in case.items()}, path)
    cases_mdt_sparse.check_features_to_mesh(path)


def test_other_masks_and_tables_with_fewer_columns(tmp_path: Path) -> None:
    random, masks, lines = np.random.default_rng(0), {}, ["mask,betti0,betti1"]
    for name, shape in (("tall", (30, 11)), ("wide", (5, 77))):
        mask = random.random(shape) < 0.5
        masks |= {name: np.packbits(mask, axis=-1), f"{name}__shape": np.array(shape)}
        lines.append(f"{name},{','.join(map(str, betti_numbers(mask)))}")
    np.savez(tmp_path / "betti_masks.npz", **masks)
    (tmp_path / "betti_masks.csv").write_text("\n".join(lines) + "\n")
    cases_topology.check_betti_masks(tmp_path / "betti_masks.npz")


@pytest.mark.parametrize(
    "config",
    [
        HashGridConfig(3, 1, 7, log2_rows=6, dim=2, per_level_scale=1.7),
        HashGridConfig(6, 4, 4, log2_rows=8, grid="tiled", per_level_scale=2.0),
        HashGridConfig(
            5, 2, 9, log2_rows=9, grid="tiled", per_level_scale=1.4, convention="gridencoder"
        ),
    ],
)
def test_hash_grids_of_other_sizes(config: HashGridConfig, tmp_path: Path) -> None:
    levels, features, dim = config.levels, config.features, config.dim
    told = {
        "L": levels, "C": features, "base": config.base, "log2T": config.log2_rows, "D": dim,
        "seed": 3, "conv": config.convention, "interpolation": config.interpolation,
        "gridtype": config.grid, "oob": False, "per_level_scale": config.per_level_scale,
    }  # fmt: skip
    rows, random = row_count(config), np.random.RandomState(3)
    sizes = {"inputs01": (40, dim), "table": (rows, features), "dy": (40, levels * features)}
    low = {"inputs01": 0, "table": -1, "dy": -1}
    case = {n: random.uniform(low[n], 1, size).astype(np.float32) for n, size in sizes.items()}
    points, table = (
        torch.tensor(case[n], dtype=torch.float64, requires_grad=True)
        for n in ("inputs01", "table")
    )
    out = encode_reference(points, table, config)
    out.backward(torch.tensor(case["dy"], dtype=torch.float64))
    assert points.grad is not None and table.grad is not None
    used = np.flatnonzero(table.grad.abs().sum(1))
    places = case["inputs01"][..., None] * np.array([x.resolution for x in grid_levels(config)])
    case |= {
        "out": out.detach().numpy(), "dtable_rows": used, "dtable": table.grad.numpy()[used],
        "dinput01": points.grad.numpy(),
        "boundary_dist": np.abs(places - places.round()).min((1, 2)),
        "offsets": [level.offset for level in grid_levels(config)] + [rows],
    }  # fmt: skip
    path = tmp_path / "other.npz"
    np.savez(path, cfg=json.dumps({**told, "n_rows": rows}), **case)
    cases_urban_fields.check_hash(path)


def test_operators_and_descriptors_of_other_shapes(tmp_path: Path) -> None:
    for name, mesh, k in (("ball", bumpy_sphere(2), 40), ("sheet", grid(9), 21)):
        unit = normalized(mesh)
        (stiffness, mass), frames = laplacian(unit), tangent_frames(unit)
        basis = eigenbasis(unit, k, cache=False)
        matrices = dict(zip(("gradX", "gradY"), gradient_operators(unit, frames), strict=True))
        parts = {
            f"{n}_{part}": getattr(matrix.tocsr(), part)
            for n, matrix in (("L", stiffness), *matrices.items())
            for part in ("data", "indices", "indptr")
        }
        path = tmp_path / f"operators_{name}.npz"
        arrays = {"verts": unit.vertices, "faces": unit.faces, "mass": mass, "frames": frames}
        np.savez(path, evals=basis.evals, evecs=basis.evecs, **arrays, **parts)
        cases_spectral.check_operators(path)
    ball = np.load(tmp_path / "operators_ball.npz")
    basis, columns = eigenbasis(Mesh(ball["verts"], ball["faces"]), 30, cache=False), [0, 7, 12]
    found = {
        f"ball_{kind.__name__}": unit_norm(kind(basis, 13), basis.mass).numpy()[:, columns]
        for kind in (hks, wks)
    }
    path = tmp_path / "descriptors_ball.npz"
    np.savez(path, note="n_descr=13 n_eig=30", columns=columns, **found)
    cases_spectral.check_descriptors(path)
