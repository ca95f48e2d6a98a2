"""Checks of the golden cases of distillation: losses, gradients, whole steps, clipping."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geo3d.distill.conventions import strength_to_scale
from geo3d.distill.derivatives import Derivative
from geo3d.distill.flow import phase_end
from geo3d.distill.flow_objectives import How, velocity_matching
from geo3d.distill.levels import TimestepDistribution
from geo3d.work.gradients import Clipper, Masters, gradient_norm
from geo3d.work.state import TrainingState, running_average
from scenes.objects.attention import plain_kernels
from scenes.objects.objectives import Loss, ObjectiveConfig, batch_loss, make_batch
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.sparse import VoxelGrid
from scenes.objects.ss_flow import SparseStructureFlowModel, SSFlowConfig
from scenes.objects.training_batch import Batch, Draws, Latents, Roles

KINDS = {"discrete": "velocity", "continuous": "velocity", "cm": "consistency"}
NETWORKS = {
    "SparseStructureFlowModel": (SparseStructureFlowModel, SSFlowConfig),
    "SLatFlowModel": (SLatFlowModel, SLatFlowConfig),
}


@lru_cache
def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def network(folder: Path, role: str) -> nn.Module:
    """Return a network of the folder with the weights of ``role``."""
    model = read_json(folder / "model.json")
    cls, config = NETWORKS[model["name"]]
    made = cls(config(**model["args"]))
    weights = load_file(folder / f"{role}.weights.safetensors")
    made.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return made


def latents(tensors: dict[str, Tensor]) -> Latents:
    if "x_0" in tensors:
        return Latents(tensors["x_0"], tensors["cond"])
    grid = VoxelGrid(tensors["x_0.coords"], len(tensors["cond"]))
    return Latents(tensors["x_0.feats"], tensors["cond"], grid)


def times_of(schedule: dict[str, Any]) -> TimestepDistribution:
    if schedule["name"] == "uniform":
        return TimestepDistribution("uniform")
    return TimestepDistribution("logit_normal", **schedule["args"])


def scale(value: Any, draws: list[Any], position: int) -> float:
    """Return the scale of a strength: a number, none, or the one chosen from a list."""
    if isinstance(value, list):
        chosen = [draw[2] for draw in draws if draw[1] == "np.choice"]
        value = chosen[position]
    return strength_to_scale(value or 0.0)


def objective(case: dict[str, Any]) -> ObjectiveConfig:
    draws = case.get("draws", [])
    continuous = case["distill_type"] == "continuous"
    return ObjectiveConfig(
        kind=KINDS[case["distill_type"]],
        guidance_scale=scale(case["cfg_teacher_vm"], draws, 0),
        distillation_guidance_scale=scale(case["cfg_teacher_vd"], draws, -1),
        time=times_of(case["t_schedule"]),
        sigma_min=case["sigma_min"],
        derivative=Derivative(
            "jvp" if continuous else "difference",
            case["distill_interval"],
            "unit_l2" if case["d_norm"] else "none",
        ),
        matching_weight=case["lambda_vm"],
        distillation_weight=case["lambda_vd"],
        phases=case["multiphase"],
    )


def make_draws(noise: Tensor, raw: Tensor, start: Tensor) -> Draws:
    zeros = torch.zeros_like(raw)
    return Draws(noise, raw, start, zeros[:0], zeros, zeros, zeros)


def stored_draws(tensors: dict[str, Tensor]) -> Draws:
    drawn = [tensors[name] for name in sorted(tensors) if name.startswith("draw")]
    return make_draws(drawn[0], drawn[1], drawn[2] if len(drawn) > 2 else torch.zeros(0))


def check_losses(path: Path) -> None:
    """Loss, its terms, times, the pair of velocity matching, and every gradient."""
    folder, case = path.parent, read_json(path.parent / "cases.json")[path.stem]
    tensors = load_file(path)
    roles = Roles(network(folder, "student"), network(folder, "teacher").requires_grad_(False))
    batch = latents(load_file(folder / "data.safetensors"))
    config, draws = objective(case), stored_draws(tensors)
    with plain_kernels():
        found = batch_loss(roles, batch, draws, config)
        found.total.backward()
    close(found.total, tensors["loss"], 1e-4)
    close(found.t, tensors["t"], 1e-6)
    for ours, theirs in (("matching", "loss_vm"), ("distillation", "loss_vd")):
        assert (ours in found.parts) == (theirs in tensors)
        if theirs in tensors:
            close(found.parts[ours], tensors[theirs], 1e-4)
    check_bins(found, case["bins"])
    check_pair(make_batch(roles, batch, draws, config), config, tensors)
    check_gradients(roles.student, tensors, case["grad_norm"])


def check_bins(found: Loss, bins: dict[str, float]) -> None:
    for name, value in bins.items():
        inside = (found.t * 10).long().clamp(max=9) == int(name.removeprefix("bin_"))
        close(found.per_item[inside].mean(), torch.tensor(value), 1e-4)


def check_pair(batch: Batch, config: ObjectiveConfig, tensors: dict[str, Tensor]) -> None:
    name = "vm_pred.feats" if "vm_pred.feats" in tensors else "vm_pred"
    if name not in tensors or config.kind != "velocity":
        return
    with plain_kernels(), torch.no_grad():
        pair = velocity_matching(
            batch.velocity("student"),
            batch.field(config.guidance_scale, config.guidance_interval),
            batch.place(),
            How(config.derivative),
        )
    for found, expected in zip(pair, (name, name.replace("pred", "tgt")), strict=True):
        # one entry of a difference over 0.01 has 100 times the rounding of the rest
        assert (found - tensors[expected]).norm() <= 1e-4 * tensors[expected].norm()


def check_gradients(student: nn.Module, tensors: dict[str, Tensor], norms: dict[str, Any]) -> None:
    parameters = dict(student.named_parameters())
    assert parameters.keys() == norms.keys()
    for name, norm in norms.items():
        gradient = parameters[name].grad
        if norm is None:
            assert gradient is None or not gradient.any()
        else:
            assert gradient is not None, name
            close(gradient.norm(), torch.tensor(norm), 1e-3)
    for name, expected in tensors.items():
        if name.startswith("grad."):
            gradient = parameters[name.removeprefix("grad.")].grad
            assert gradient is not None
            assert (gradient - expected).norm() <= 1e-3 * expected.norm(), name


def check_failed_upstream(path: Path) -> None:
    """Cases that the released code cannot do: ours can, and the settings say so."""
    cases = read_json(path)
    failed = {name: case["error"] for name, case in cases.items() if "error" in case}
    names = {name for name in cases if name not in failed}
    files = {p.stem for p in path.parent.glob("*.safetensors") if not p.stem.startswith("train_")}
    assert names == files - {"data", "student.weights", "teacher.weights", "t_sampling"}
    assert set(failed) <= {"upstream_discrete", "upstream_continuous"}
    if not failed:
        return
    from scenes.objects import train_config

    text = " ".join((train_config.__doc__ or "").split())
    assert "released trainer for sparse latents stops with an error" in text


def check_times(path: Path) -> None:
    """Raw draws to times and to the ends of phases."""
    tensors = load_file(path)
    seen = 0
    for name, raw in tensors.items():
        if not name.endswith(".raw"):
            continue
        kind, schedule, interval = name.removesuffix(".raw").split(".", 2)
        derivative = Derivative("jvp" if kind == "continuous" else "difference", float(interval))
        times = (
            TimestepDistribution("uniform")
            if schedule == "uniform"
            else TimestepDistribution("logit_normal", 1.0, 1.0)
        )
        config = ObjectiveConfig(kind=KINDS[kind], time=times, derivative=derivative)
        stem = name.removesuffix(".raw")
        t = config.time.times(raw, config.lowest)
        torch.testing.assert_close(t, tensors[f"{stem}.t"], rtol=1e-6, atol=1e-7)
        for key in (key for key in tensors if key.startswith(f"{stem}.t_target_m")):
            phases = int(key.removeprefix(f"{stem}.t_target_m"))
            ends = phase_end(tensors[f"{stem}.t"], derivative.reach, phases)
            torch.testing.assert_close(ends, tensors[key], rtol=1e-6, atol=1e-7)
        seen += 1
    assert seen == len([name for name in tensors if name.endswith(".t")]) > 0


def check_steps(path: Path) -> None:
    """Whole steps: two micro-batches, clipping, AdamW, two averages, with and without scaling."""
    story, expected = read_json(path), load_file(path.with_suffix(".safetensors"))
    folder = path.parent
    student = network(folder, "student")
    roles = Roles(student, network(folder, "teacher").requires_grad_(False))
    config = objective(story["trainer"])
    masters = Masters(student, story["initial_log_scale"] or 0.0, story["fp16_scale_growth"])
    averages = {
        f"ema{rate}": running_average(masters.weights, lambda step, rate=rate: rate)
        for rate in story["ema_rate"]
    }
    optimiser = torch.optim.AdamW(masters.weights, **story["optimizer"]["args"])
    state = TrainingState(student, optimiser, list(averages.values()), masters=masters)
    clipper = clipper_of((story["grad_clip"] or {}).get("args", {}))
    whole = latents(expected)
    for seed, wanted in zip(story["seeds"], story["history"], strict=True):
        torch.manual_seed(seed)
        masters.forget_gradients()
        total = 0.0
        for start, end in story["micro_batches"]:
            values = whole.values[start:end]
            draws = make_draws(torch.randn_like(values), torch.randn(len(values)), values)
            draws = make_draws(draws.noise, draws.raw, torch.randn_like(values))
            batch = Latents(values, whole.condition[start:end])
            loss = batch_loss(roles, batch, draws, config).total / len(story["micro_batches"])
            (loss * masters.scale).backward()
            total += float(loss.detach())
        gradients = masters.take_gradients()
        norm = gradient_norm(gradients)
        clipper.clip(gradients, norm)
        optimiser.step()
        masters.publish()
        masters.adapt(True)
        state.update_averages()
        assert total == pytest.approx(wanted["loss"], rel=1e-4)
        assert float(norm) == pytest.approx(wanted["grad_norm"], rel=1e-3)
        assert masters.log_scale == pytest.approx(wanted["log_scale"])
        if "clip_max" in wanted:
            assert clipper.limit == pytest.approx(wanted["clip_max"]["max_norm"], rel=1e-4)
    averaged = {
        name: dict(zip(masters.names, average.module.parameters(), strict=True))
        for name, average in averages.items()
    }
    check_weights(student, averaged, expected, story["param_norms_order"])


def check_weights(
    student: nn.Module,
    averages: dict[str, dict[str, Tensor]],
    expected: dict[str, Tensor],
    order: list[str],
) -> None:
    parameters = {n: p.detach() for n, p in student.named_parameters()}
    norms = torch.stack([parameters[name].norm() for name in order])
    # A bias of the keys changes no softmax: its gradient is rounding, which AdamW makes steps of.
    is_idle = torch.tensor([name.endswith("to_kv.bias") for name in order])
    wanted = torch.where(is_idle, norms, expected["param_norms"])
    torch.testing.assert_close(norms, wanted, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(norms, expected["param_norms"], rtol=2e-3, atol=0)
    for name, wanted in expected.items():
        kind, _, rest = name.partition(".")
        if kind == "param":
            torch.testing.assert_close(parameters[rest], wanted, rtol=0, atol=2e-5)
        if kind.startswith("ema"):
            average = next(key for key in averages if name.startswith(f"{key}."))
            found = averages[average][name.removeprefix(f"{average}.")]
            torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def clipper_of(settings: dict[str, Any]) -> Clipper:
    """Return the clipper of published settings, which may be left out."""
    percentile, memory = settings.get("clip_percentile", 95.0), settings.get("buffer_size", 1000)
    return Clipper(settings.get("max_norm"), float(percentile), memory)


def check_clipper(path: Path) -> None:
    """The adaptive limit, row after row, through one norm that is not finite."""
    settings, tensors = read_json(path), load_file(path.with_suffix(".safetensors"))
    clipper = clipper_of(settings)
    rows = zip(
        tensors["grads"], tensors["clipped"], tensors["grad_norm"], tensors["max_norm_after"],
        strict=True,
    )  # fmt: skip
    for gradient, clipped, norm, limit in rows:
        mine = gradient.clone()
        found = gradient_norm([mine])
        clipper.clip([mine], found)
        # not a number where there is no limit yet
        known = math.nan if clipper.limit is None else clipper.limit
        assert known == pytest.approx(float(limit), rel=1e-6, nan_ok=True)
        if torch.isfinite(norm):
            assert float(found) == pytest.approx(float(norm), rel=1e-6)
            torch.testing.assert_close(mine, clipped, rtol=1e-6, atol=1e-6)
        else:
            # what is left in the gradients is of no use: the step is skipped
            assert not torch.isfinite(found)


def close(found: Tensor, expected: Tensor, rtol: float) -> None:
    torch.testing.assert_close(
        found.detach().float(), expected, rtol=rtol, atol=rtol * float(expected.abs().max()) * 0.1
    )
