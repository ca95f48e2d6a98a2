"""Golden checks take cases of other sizes: written here with our own code, then read as any case.

What is shown is that sizes, counts and settings are read from the case, not that numbers are right.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import cases_mdt_sparse, cases_mdt_training, cases_prior, cases_topology
from golden.test_golden_mdt_dense import Field, check_embeddings, check_multi_image
from safetensors.torch import save_file
from torch import Tensor

from geo3d.distill.preconditioning import EDM, IDDPM, VE, denoise
from geo3d.topology.betti import betti_numbers
from geo3d.topology.metrics import betti_errors, cl_dice, dice, hausdorff_95, local_betti_errors
from geo3d.topology.skeleton import soft_skeleton, thin, tube
from geo3d.work.gradients import Clipper, gradient_norm
from scenes.objects.decoders import SLatDecoderConfig, SLatMeshDecoder
from scenes.objects.embeddings import patchify, position_sinusoids, time_sinusoids, unpatchify
from scenes.objects.gaussians import hammersley
from scenes.objects.samplers import Conditions, SamplerConfig, sample
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


@pytest.mark.parametrize(("width", "touches"), [(61, True), (64, True), (50, False)])
def test_skeletons_of_labels_whose_rows_end_within_a_byte(
    tmp_path: Path, width: int, touches: bool
) -> None:
    label = np.zeros((40, width), dtype=bool)
    label[8:13, 4 : width if touches else width - 8] = True
    label[:, 20:23] = True
    soft = torch.from_numpy(label.astype(np.float32))[None, None]
    maps = {"label_7": label, "tube_7": tube(label), "cbskel_7_it2": thin(label, 2)}
    maps["softskel_7_it4"] = soft_skeleton(soft, 4)[0, 0].numpy() > 0
    case = {name: np.packbits(mask, axis=-1) for name, mask in maps.items()}
    volume = torch.rand(1, 1, 5, 6, 7)
    case |= {"vol_in": volume.numpy(), "vol_softskel_it2": soft_skeleton(volume, 2).numpy()}
    np.savez(tmp_path / "skeletons.npz", **case)
    cases_topology.check_skeletons(tmp_path / "skeletons.npz")
    case["cbskel_7_it2"][8] ^= 255
    np.savez(tmp_path / "skeletons.npz", **case)
    with pytest.raises(AssertionError, match="cbskel_7_it2"):
        cases_topology.check_skeletons(tmp_path / "skeletons.npz")


@pytest.mark.parametrize(("size", "step", "width"), [(96, 24, 3), (100, 16, 1)])
def test_extreme_predictions_of_a_lattice_of_another_size(
    tmp_path: Path, size: int, step: int, width: int
) -> None:
    true = cases_topology.lattice(size, step, width)
    full, empty, broken = np.ones_like(true), np.zeros_like(true), true.copy()
    broken[2 * step : 2 * step + width, 2 * step + width + 2 : 2 * step + width + 8] = False
    broken[step + step // 2 :, step + step // 2 :][:2, :2] = True
    dot = empty.copy()
    dot[width, width] = True
    cases = {"identical": true, "gap_and_dot": broken, "empty_pred": empty, "full_pred": full,
             "one_pixel_pred": dot}  # fmt: skip
    lines = ["case,dice,hd95,betti1_true,betti0_error,betti1_error,betti0_error_local,"
             "betti1_error_local,cldice"]  # fmt: skip
    for name, one in cases.items():
        numbers = [dice(one, true), hausdorff_95(one, true, compat=True), betti_numbers(true)[1],
                   *betti_errors(one, true, compat=True),
                   *local_betti_errors(one, true, compat=True)]  # fmt: skip
        overlap = cl_dice(one, true, compat=True)
        lines.append(",".join([name, *map(repr, map(float, numbers)), repr(float(overlap))]))
    text = "\n".join(lines).replace("nan", "").replace(".0,", ",")
    (tmp_path / "metrics_edge_cases.csv").write_text(text + "\n")
    cases_topology.check_edge_cases(tmp_path / "metrics_edge_cases.csv")


@pytest.mark.parametrize(
    "config",
    [
        SamplerConfig(steps=4, rescale_t=1.0, guidance_scale=8.5, interval=(0.0, 1.0)),
        SamplerConfig(steps=7, rescale_t=4.0, guidance_scale=3.0, interval=(0.3, 0.9)),
        SamplerConfig(steps=3, rescale_t=2.0, guidance_scale=None),
    ],
)
def test_samplers_of_several_images_with_other_settings(
    tmp_path: Path, config: SamplerConfig
) -> None:
    case = {
        "noise": draw(2, 4, 3, 3, 3),
        "cond": draw(2, 4, seed=1),
        "neg_cond": draw(1, 4, seed=2),
    }
    for mode in ("stochastic", "multidiffusion"):
        conditions = Conditions([row[None] for row in case["cond"]], case["neg_cond"], mode)
        found = sample(Field(), case["noise"], conditions, config, record=True)
        case |= {
            f"{mode}.samples": found.x,
            f"{mode}.pred_x_t": torch.stack([s.x for s in found.steps]),
        }
    save_file(case, tmp_path / "multi_image.safetensors")
    check_multi_image(tmp_path / "multi_image.safetensors")
