"""Checks of golden cases: hash grids, volume rendering, whole scenes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geo3d.config import load_config
from geo3d.fields.hashgrid import encode_reference
from geo3d.fields.hashgrid_fast import encode_fast
from geo3d.fields.levels import HashGridConfig, grid_levels, row_count
from geo3d.render import intervals, volume
from geo3d.render import volume as losses
from geo3d.render.rays import Rays, cone_samples, contract, uncontract


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the settings and the arrays of a case."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays.pop("cfg"))), arrays


def check_hash(path: Path) -> None:
    """Encode, and compare with both published kernels' results and gradients."""
    cfg, case = read(path)
    config = HashGridConfig(
        cfg["L"],
        cfg["C"],
        cfg["base"],
        log2_rows=cfg["log2T"],
        dim=cfg["D"],
        convention=cfg["conv"],
        interpolation=cfg["interpolation"],
        grid=cfg["gridtype"],
        align_corners=cfg.get("align_corners", False),
        per_level_scale=cfg["per_level_scale"],
    )
    levels = grid_levels(config)
    assert [level.offset for level in levels] + [row_count(config)] == case["offsets"].tolist()
    if "grid_sizes" in case:
        assert [level.resolution for level in levels] == case["grid_sizes"].tolist()
    table, dy = _regenerate(cfg, case)
    finest = cfg["base"] * cfg["per_level_scale"] ** (cfg["L"] - 1)
    # Float32 positions are the coarser, the finer the level they are looked up in.
    loose = 1e-3 if finest > 4096 else 5e-4 if cfg["L"] >= 8 else 5e-5
    _check_encoder(encode_reference, config, case, table, dy, torch.float64, 1e-9, 1e-6)
    _check_encoder(encode_reference, config, case, table, dy, torch.float32, loose, loose)
    if cfg["D"] == 3:
        _check_encoder(encode_fast, config, case, table, dy, torch.float32, loose, loose)


def _regenerate(cfg: dict[str, Any], case: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(cfg["seed"])
    random.uniform(0, 1, case["inputs01"].shape)
    if cfg["oob"]:
        random.uniform(-0.3, 1.3, (16, cfg["D"]))
    table = random.uniform(-1, 1, (cfg["n_rows"], cfg["C"])).astype(np.float32)
    dy = random.uniform(-1, 1, case["dy"].shape).astype(np.float32)
    np.testing.assert_array_equal(dy, case["dy"])
    return case.get("table", table), dy


def _check_encoder(
    encode: Any,
    config: HashGridConfig,
    case: dict[str, np.ndarray],
    table: np.ndarray,
    dy: np.ndarray,
    dtype: torch.dtype,
    atol: float,
    atol_table: float,
) -> None:
    points = torch.tensor(case["inputs01"], dtype=dtype, requires_grad=True)
    rows = torch.tensor(table, dtype=dtype, requires_grad=True)
    out = encode(points, rows, config)
    out.backward(torch.tensor(dy, dtype=dtype))
    assert points.grad is not None and rows.grad is not None
    np.testing.assert_allclose(out.detach(), case["out"], rtol=0, atol=atol)
    expected = np.zeros(table.shape)
    expected[case["dtable_rows"]] = case["dtable"]
    np.testing.assert_allclose(rows.grad, expected, rtol=0, atol=atol_table)
    clear = case["boundary_dist"] > 1e-3
    limit = 1e-3 * np.abs(case["dinput01"]).max()
    np.testing.assert_allclose(points.grad[clear], case["dinput01"][clear], rtol=0, atol=limit)


def check_volume(path: Path) -> None:
    """Sample, composite, and compare every array of a case."""
    _, arrays = read(path)
    case = {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}
    for part in (_check_warps, _check_histograms, _check_compositing, _check_losses, _check_cone):
        part(case)


def _same(case: dict[str, Tensor], name: str, value: Tensor, rtol: float = 1e-4) -> None:
    np.testing.assert_allclose(value.detach(), case[name], rtol=rtol, atol=1e-5, err_msg=name)


def _check_warps(case: dict[str, Tensor]) -> None:
    near, far, s = case["near"], case["far"], case["s"]
    _same(case, "pt_y", intervals.power_transform(2 * case["pt_x"]))
    _same(case, "pt_inv", intervals.power_transform_inverse(case["pt_y"], compat=True) / 2, 2e-3)
    warped = intervals.s_to_t(s, near, far, "power", compat=True)
    _same(case, "s_to_t", warped, 2e-3)
    _same(case, "s_to_t", intervals.s_to_t(s, near, far, "power"), 2e-3)
    _same(case, "t_roundtrip_s", intervals.t_to_s(case["s_to_t"], near, far, "power"))
    _same(case, "s_to_t_piecewise", intervals.s_to_t(s, near, far, "piecewise"))
    _same(case, "s_to_t_None", intervals.s_to_t(s, near, far, "linear"))
    count = len(near)
    n = case["sdist_det"].shape[1] - 1
    _same(case, "sdist_det", intervals.uniform_intervals(count, n))
    _same(case, "sdist_jit", intervals.uniform_intervals(count, n, case["jitter"]))
    _same(case, "tdist_det", intervals.s_to_t(case["sdist_det"], near, far, "power"), 2e-3)


def _check_histograms(case: dict[str, Tensor]) -> None:
    s, logits = case["s"], case["w_logits"]
    weights = torch.softmax(logits, -1)
    _same(case, "prob", weights)
    _same(case, "integrate_weights", intervals.integrate_weights(weights))
    _same(case, "pdf", intervals.weights_to_density(s, weights))
    m = case["resample_det"].shape[1] - 1
    _same(case, "resample_det", intervals.histogram_intervals(s, logits, m))
    _same(case, "resample_jit", intervals.histogram_intervals(s, logits, m, case["jitter"]))
    edges, grown = intervals.dilate(s, weights, 0.0025 + 0.5 / weights.shape[1])
    _same(case, "dilate_t", edges)
    _same(case, "dilate_w", grown)
    knots, values = intervals.blur(s, intervals.weights_to_density(s, weights), 0.03)
    _same(case, "blur_x", knots)
    _same(case, "blur_y", values)
    parts = torch.tensor([0.05, 0.5, 0.95])
    _same(case, "pct", intervals.percentiles(s, weights, parts))
    fraction = case["anneal_frac"]
    _same(case, "anneal_bias10", 10 * fraction / (9 * fraction + 1))


def _check_compositing(case: dict[str, Tensor]) -> None:
    leaves = {n: case[n].clone().requires_grad_() for n in ("density", "rgb", "bg")}
    edges, directions = case["tdist_det"], case["dirs"]
    lengths, middles = edges.diff(dim=1), (edges[:, 1:] + edges[:, :-1]) / 2
    found = volume.alpha_weights(leaves["density"], lengths, directions)
    _same(case, "weights", found.weights)
    _same(case, "alpha", found.alpha)
    _same(case, "trans", found.transmittance)
    wall = volume.alpha_weights(leaves["density"], lengths, directions, opaque_end=True)
    _same(case, "weights_opaque", wall.weights)
    pixels = volume.composite(
        found.weights, leaves["rgb"], middles, edges[:, 0], edges[:, -1], leaves["bg"]
    )
    _same(case, "out_rgbs", pixels.rgb)
    _same(case, "out_depths", pixels.depth)
    _same(case, "out_acc", pixels.acc)
    total = (pixels.rgb * case["g_rgb"]).sum() + (pixels.depth * case["g_depth"]).sum()
    (total + (pixels.acc * case["g_acc"]).sum()).backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        _same(case, f"d_{name}", leaf.grad)
    _same(case, "out_distance_mean", volume.mean_log_distance(case["weights"], edges))
    at = volume.distance_percentiles(case["weights"], edges)
    for column, name in enumerate(("percentile_5", "median", "percentile_95")):
        _same(case, f"out_distance_{name}", at[:, column], 2e-3)


def _check_losses(case: dict[str, Tensor]) -> None:
    s, proposal_s = case["sdist_jit"], case["s"]
    weights = case["weights"].clone().requires_grad_()
    per_ray = losses.distortion(s, weights)
    per_ray.mean().backward()
    assert weights.grad is not None
    _same(case, "dist_per_ray", per_ray, 1e-3)
    _same(case, "dist_loss", per_ray.mean(), 1e-3)
    _same(case, "dist_loss_dw", weights.grad, 1e-3)
    _same(case, "distortion_loss", 0.01 * per_ray.mean(), 1e-3)
    proposal = case["prob"].clone().requires_grad_()
    missing = losses.interlevel(s, case["weights"], proposal_s, proposal)
    missing.mean().backward()
    assert proposal.grad is not None
    _same(case, "interlevel", missing, 1e-3)
    _same(case, "interlevel_dprop", proposal.grad, 1e-3)
    _same(case, "interlevel_loss", missing.mean(), 1e-3)
    inner, outer = losses.inner_outer(s, proposal_s, case["prob"])
    _same(case, "inner", inner)
    _same(case, "outer", outer)
    smooth = losses.smooth_interlevel(s, case["weights"], proposal_s, case["prob"])
    _same(case, "anti_interlevel_loss", 0.01 * smooth.mean(), 1e-3)


def _check_cone(case: dict[str, Tensor]) -> None:
    edges = case["tdist_det"]
    points, spread = cone_samples(
        case["origins"],
        case["dirs"],
        case["radii"][:, 0],
        edges[:, :-1],
        edges[:, 1:],
        case["cone_randvec"],
    )
    _same(case, "cone_means", points)
    _same(case, "cone_stds", spread)
    pulled, narrowed = contract(case["contract_x"], case["contract_std"])
    assert narrowed is not None
    _same(case, "contract_y", pulled)
    _same(case, "contract_std_out", narrowed)
    _same(case, "contract_inv", uncontract(case["contract_y"]))


_NAMES = {
    "nerf_mlp_dict.": "cell-",
    "obj_nerf_mlp_list.": "object-car ",
    "sky_grid": "sky grid",
    "sky_mlp.mlp.0": "sky layers.0",
    "sky_mlp.mlp.2": "sky layers.1",
    "sky_mlp.mlp.4": "sky layers.2",
    "sky_mlp.out_layer": "sky out",
    ".encoder.embeddings": "|encoder.table",
    ".density_layer.0": "|hidden",
    ".density_layer.2": "|mix",
    ".rgb_layer": "|colour",
}


def _split(name: str) -> tuple[str, str]:
    """Turn a published parameter name into a block's and the parameter's in it."""
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    block, _, parameter = name.partition(" " if name.startswith("sky") else "|")
    return block, parameter


def check_scene(path: Path) -> None:
    """Render a scene of published parameters, forward and backward."""
    cfg, case = read(path)
    scene = _scene(cfg, case)
    parameters = {}
    for name in (n.removeprefix("param:") for n in case if n.startswith("param:")):
        block, parameter = _split(name)
        values = torch.tensor(case[f"param:{name}"].astype(np.float32))
        if name == "sky_grid":
            scene.blocks.get(block).grid = torch.nn.Parameter(values)
        parameters[name] = scene.blocks.get(block).get_parameter(parameter)
        parameters[name].data[:] = values
    tensors = {k: torch.tensor(case[k]) for k in ("rand_vec", "g_rgb", "g_depth", "g_acc")}
    flat = [torch.tensor(case[k][:, 0]) for k in ("radii", "near", "far")]
    rays = Rays(torch.tensor(case["rays_o"]), torch.tensor(case["rays_d"]), *flat)
    seen = scene.render(rays, train=True, across=tensors["rand_vec"])
    _check_pixels(seen, case)
    total = (seen.rgb * tensors["g_rgb"]).sum() + (seen.depth * tensors["g_depth"]).sum()
    (total + (seen.acc * tensors["g_acc"]).sum()).backward()
    for name, parameter in parameters.items():
        if f"grad:{name}" not in case:
            assert parameter.grad is None, name
            continue
        expected = case[f"grad:{name}"]
        found = np.zeros_like(expected) if parameter.grad is None else parameter.grad.numpy()
        limit = 2e-2 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=name)


def _check_pixels(seen: Any, case: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(seen.s, case["sdist"], atol=2e-6)
    close = case["far"][:, 0] < 120
    close_sampled = close[seen.sampled.numpy()]
    weights = seen.weights.detach().numpy()
    np.testing.assert_allclose(weights[close_sampled], case["weights"][close_sampled], atol=1e-3)
    np.testing.assert_allclose(weights, case["weights"], atol=3e-2)
    for name, value, atol in (("rgbs", seen.rgb, 1e-4), ("acc", seen.acc, 3e-4)):
        found = value.detach().numpy()
        np.testing.assert_allclose(found[close], case[name][close], rtol=0, atol=atol)
    np.testing.assert_allclose(seen.rgb.detach(), case["rgbs"], rtol=0, atol=5e-3)
    np.testing.assert_allclose(seen.acc.detach(), case["acc"], rtol=0, atol=1e-2)
    depth = seen.depth.detach().numpy()
    np.testing.assert_allclose(depth[close], case["depths"][close], rtol=1e-4, atol=1e-5)


def _scene(cfg: dict[str, Any], case: dict[str, np.ndarray]) -> Any:
    from geo3d.layout.layout import CUBE_FACES, CUBE_VERTICES, Layout, Primitive
    from scenes.urban.config import SceneConfig
    from scenes.urban.scene import Scene

    published = load_config(SceneConfig, preset="published").fields
    mlp = cfg["mlp"]
    sizes = {
        "levels": mlp["levels"],
        "features": mlp["level_dim"],
        "base": mlp["base"],
        "finest": mlp["desired"],
        "hidden": mlp["density_hidden"],
        "bottleneck": mlp["bottleneck"],
    }
    config = replace(
        published,
        cell=cfg["grid_scale"],
        stuff=replace(published.stuff, log2_rows=mlp["log2_T"], **sizes),
        objects=replace(published.objects, log2_rows=mlp["obj_log2_T"], **sizes),
        samples=case["sdist"].shape[1] - 1,
        empty_background=cfg["empty_bkgd"],
        sky=cfg["sky"],
        sky_hidden=len(case.get("param:sky_mlp.mlp.0.weight", ())) or published.sky_hidden,
    )
    cars = [
        Primitive(f"car {k}", "car", "box", t.astype(np.float64), CUBE_VERTICES, CUBE_FACES)
        for k, t in enumerate(case["obj_transforms"])
    ]
    keys = [tuple(int(v) for v in re.findall(r"-?\d+", name)) for name in cfg["cells"]]
    return Scene(config, Layout("golden", tuple(cars), np.eye(4)[None]), cells=keys)
