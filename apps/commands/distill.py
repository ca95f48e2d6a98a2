"""Train a flow network of objects: a teacher, or a student that needs one or two steps.

  geo3d distill CONFIG                        settings in YAML (data, teacher, objective, ...)
  geo3d distill CONFIG --preset mdt           an objective by name, below the file's settings
  geo3d distill CONFIG --set steps=2000       override one setting
  geo3d distill --resume runs/distill/RUN     go on after an interruption, bit by bit

Guidance scales: 1 is none; w of TRELLIS and MDT-dist is the scale less 1 (their 40 is 41 here).
Presets: teacher, released, mdt, regression, cm, pcm, scm, meanflow, data_free, boot, dmd.
Several GPUs: torchrun --nproc-per-node N -m apps.cli distill ... (needs geo3d[distributed]).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.commands import add_common, emit

if TYPE_CHECKING:
    from geo3d.runs import Run
    from scenes.objects.train_config import DistillConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d distill``."""
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file with settings")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads (default: all)")
    add_common(parser, "preset", "set", "seed", "device", "out", "resume", "json", "quiet")


def run(args: argparse.Namespace) -> int:
    """Train in a run folder and print the final numbers."""
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if int(os.environ.get("RANK", "0")) > 0:
        return _follow(args)
    run_folder = _open(args) if args.resume else _start(args)
    if not run_folder.is_done:
        with run_folder:
            _train(run_folder, args)
    return _show(run_folder, args)


def _start(args: argparse.Namespace) -> Run:
    from geo3d.runs import start_run
    from scenes.objects.latent_folder import LatentFolder
    from scenes.objects.training import load_flow

    config = _settings(args)
    # Read before the run folder is made, so that a slip leaves nothing behind.
    student, _ = load_flow(config)
    LatentFolder(config.data, type(student).__name__ == "SLatFlowModel")
    name = Path(args.config).stem if args.config else config.objective.kind
    inputs = [f"{stem}.safetensors" for stem in (config.teacher, config.student) if stem]
    return start_run("distill", name, config, args.out, config.seed, args.device, inputs)


def _open(args: argparse.Namespace) -> Run:
    from geo3d.errors import ConfigError
    from geo3d.runs import open_run

    if args.config or args.preset or args.set:
        raise ConfigError(
            "distill.resume_is_complete",
            "A resumed run has its settings already.",
            "Give --resume alone.",
        )
    return open_run(args.resume)


def _settings(args: argparse.Namespace) -> DistillConfig:
    from geo3d.config import load_config
    from scenes.objects.train_config import DistillConfig

    seed = [f"seed={args.seed}"] if args.seed else []
    return load_config(DistillConfig, args.config, args.preset, [*seed, *args.set])


def _train(run_folder: Run, args: argparse.Namespace) -> None:
    from geo3d.listeners import cancel_listener, chain, tqdm_listener
    from scenes.objects.train_config import DistillConfig
    from scenes.objects.training import train

    progress = chain(cancel_listener(run_folder), tqdm_listener(disable=args.quiet or args.json))
    numbers = train(
        run_folder.load_config(DistillConfig),
        run_folder.outputs,
        device=run_folder.record["device"],
        log_metrics=run_folder.log_metrics,
        progress=progress,
    )
    run_folder.finish(numbers)


def _follow(args: argparse.Namespace) -> int:
    """Train beside the first process, which alone has the run folder."""
    from geo3d.config import load_config
    from scenes.objects.train_config import DistillConfig
    from scenes.objects.training import train

    with tempfile.TemporaryDirectory() as empty:
        config, out = None, Path(empty)
        if args.resume:
            config = load_config(DistillConfig, Path(args.resume) / "config.yaml")
            out = Path(args.resume) / "outputs"
        train(config or _settings(args), out, device=args.device)
    return 0


def _show(run_folder: Run, args: argparse.Namespace) -> int:
    import json

    metrics = json.loads((run_folder.path / "metrics.json").read_text(encoding="utf-8"))
    files = sorted(p.stem for p in run_folder.outputs.glob("student*.json"))
    models = [str(run_folder.outputs / stem) for stem in files]
    payload: dict[str, Any] = {**metrics, "models": models, "run": str(run_folder.path)}
    terms = ", ".join(
        f"{name} {value:.4g}"
        for name, value in metrics.items()
        if name.startswith("loss") and "bin" not in name
    )
    lines = [*models, f"  {terms}", f"  run: {run_folder.path}"]
    emit(args, payload, "\n".join(lines))
    return 0
