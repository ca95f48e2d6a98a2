"""How a verb opens, resumes and records its run: once, for all verbs.

    def run(args):
        done = run_verb(args, "match", begin, work, fixed="source target")
        emit(args, {**done.numbers, "run": str(done.path)}, ...)

``begin`` reads the settings and looks at what is asked for; what is wrong with it is raised before
there is a run folder.  ``work`` does it in the folder and ends with ``run.finish(numbers)``.  With
``--resume`` the folder tells everything, ``begin`` is not called, and of a run that is done only
the results are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from geo3d.config import load_config
from geo3d.errors import ConfigError, InputError
from geo3d.files import append_line, atomic_write_json
from geo3d.listeners import cancel_listener, chain, jsonl_listener, tqdm_listener
from geo3d.progress import ProgressCallback
from geo3d.runs import Run, open_run, read_metrics, run_state, start_run

_C = TypeVar("_C")
_FIXED = ("config", "preset", "set")
"""Flags that a run keeps, whatever the verb."""
_EVENT_SECONDS = 0.2
"""Between the progress events that a run keeps; the workbench looks twice a second."""


@dataclass(frozen=True)
class Beginning:
    """A run that is asked for, looked at and found possible."""

    name: str
    """Of the run folder, for people."""
    config: Any = None
    """Settings; a dataclass, or None."""
    inputs: Sequence[str | os.PathLike[str] | None] = ()
    """Files and folders the run reads; a resumed run refuses others.  None is left out."""
    prepare: Callable[[Run], object] | None = None
    """Writes into the new folder what the run needs besides its settings; see `remember`."""
    seed: int | None = None
    """For the manifest; by default that of the settings, or of ``--seed``."""
    device: str | None = None
    """Of computations elsewhere (a cluster), not looked at; by default that of ``--device``."""


def run_verb(
    args: argparse.Namespace,
    verb: str,
    begin: Beginning | Callable[[], Beginning],
    work: Callable[[Run, ProgressCallback], None],
    fixed: str = "",
    *,
    verify_inputs: bool = True,
    redo: bool = False,
) -> Run:
    """Open the run of ``--resume`` or begin one, do its work unless it is done, return it.

    Args:
        args: the verb's flags.
        verb: the verb's name in run folders.
        begin: see the module; what was begun, where the verb has no ``--resume``.
        work: what is to be done; it is given the run and a listener.
        fixed: the verb's own flags that a run keeps and that ``--resume`` therefore refuses.
        verify_inputs: refuse to resume with other inputs.
        redo: work on a run that is done, too.

    Raises:
        ConfigError: ``run.resume_is_complete``.
        InputError: ``run.cannot_resume``, and those of `geo3d.runs.open_run`.
    """
    if getattr(args, "resume", None):
        run = _resume(args, verb, fixed, verify_inputs)
    else:
        run = _start(args, verb, begin)
    if redo or not run.is_done:
        with run:
            work(run, listener(args, run))
    return run


def run_training(
    args: argparse.Namespace,
    verb: str,
    cls: type[Any],
    begin: Callable[[], Beginning],
    train: Callable[..., Mapping[str, Any]],
    show: Callable[[argparse.Namespace, Run], None],
    fixed: str = "",
) -> int:
    """Train in a run and show it; beside the first process of torchrun, only train.

    Args:
        args, verb, begin, fixed: see `run_verb`.
        cls: class of the settings.
        train: called with settings, folder, device, log_metrics and progress; returns the numbers.
        show: prints the result of a run that is done.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        # The first process alone has the run folder.
        with tempfile.TemporaryDirectory() as empty:
            train(*_followed(args, cls, begin, Path(empty)), device=args.device)
        return 0

    def work(run: Run, progress: ProgressCallback) -> None:
        from geo3d.work.curves import plot_training

        numbers = train(
            run.load_config(cls),
            run.outputs,
            device=run.record["device"],
            log_metrics=run.log_metrics,
            progress=progress,
        )
        plot_training(run.previews / "training.png", read_metrics(run.path))
        run.finish(numbers)

    show(args, run_verb(args, verb, begin, work, fixed))
    return 0


def settings(
    args: argparse.Namespace,
    cls: type[_C],
    values: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> _C:
    """Return settings: preset, ``--config``, ``values`` from flags, ``--set``, then ``--seed``.

    Args:
        args: the verb's flags.
        cls: class of the settings.
        values: by dotted key; None and "" are flags that were not given.
        preset: where there is no ``--preset``.
    """
    given = {key: value for key, value in (values or {}).items() if value not in (None, "")}
    file, chosen = getattr(args, "config", None), getattr(args, "preset", None)
    overrides = getattr(args, "set", ())
    config = load_config(cls, file, chosen or preset, overrides, values=given)
    seed = getattr(args, "seed", None)
    return config if seed is None else replace(cast(Any, config), seed=seed)


def with_engine(args: argparse.Namespace, config: _C) -> _C:
    """Return settings with what ``--engine``, ``--slurm`` and ``--workers`` change in them."""
    given = {n: v for n in ("engine", "workers") if (v := getattr(args, n, None)) is not None}
    if args.slurm:
        was = cast(Any, config).slurm
        given["slurm"] = load_config(type(was), values=asdict(was), overrides=args.slurm)
    return replace(cast(Any, config), **given)


def listener(args: argparse.Namespace, run: Run | None = None) -> ProgressCallback:
    """Return the listener of a verb: a bar on the terminal; with a run, its file and its cancel."""
    bar = tqdm_listener(disable=args.quiet or args.json)
    if run is None:
        return bar
    events = jsonl_listener(run.path / "progress.jsonl", _EVENT_SECONDS)
    return chain(cancel_listener(run), events, bar)


def metrics_log(folder: Path) -> Callable[[Mapping[str, Any]], None]:
    """Return what appends numbers to ``metrics.jsonl`` of a folder that is no run."""
    return lambda numbers: append_line(folder / "metrics.jsonl", json.dumps(dict(numbers)))


def remember(request: Mapping[str, Any]) -> Callable[[Run], object]:
    """Return what writes down, in a new run, what `request_of` reads."""
    return lambda run: atomic_write_json(run.path / "request.json", dict(request))


def request_of(run: Run) -> dict[str, Any]:
    """Return what a run was asked besides its settings.

    Raises:
        InputError: ``run.cannot_resume``.
    """
    try:
        return json.loads((run.path / "request.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _cannot_resume(run.path, "it ended before it knew its files") from error


def require_flag(args: argparse.Namespace, name: str, hint: str) -> str:
    """Return the value of a flag that a verb cannot do without.

    Raises:
        ConfigError: ``run.no_flag``.
    """
    if not (value := getattr(args, name, None)):
        raise ConfigError("run.no_flag", f"There is no --{name}.", hint)
    return value


def require_files(*paths: str | os.PathLike[str] | None) -> None:
    """Check that files are there, before anything heavy is loaded; None is a flag not given.

    Raises:
        InputError: ``file.missing``.
    """
    for path in paths:
        if path is not None and not Path(path).is_file():
            raise InputError("file.missing", f"There is no file {path}.", "Check the path.")


def require_folders(*paths: str | os.PathLike[str] | None) -> None:
    """Check that folders are there; see `require_files`.

    Raises:
        InputError: ``folder.missing``.
    """
    for path in paths:
        if path is not None and not Path(path).is_dir():
            raise InputError("folder.missing", f"There is no folder {path}.", "Check the path.")


def full_path(path: str | os.PathLike[str] | None) -> str | None:
    """Return a path that holds in every working folder; None for a flag that was not given."""
    return str(Path(path).resolve()) if path else None


def _start(args: argparse.Namespace, verb: str, begin: Beginning | Callable[[], Beginning]) -> Run:
    begun = begin if isinstance(begin, Beginning) else begin()
    device = begun.device
    if device is None:
        from geo3d.device import pick_device

        device = str(pick_device(getattr(args, "device", "cpu")))
    seeds = (begun.seed, getattr(begun.config, "seed", None), getattr(args, "seed", None), 0)
    seed = next(seed for seed in seeds if seed is not None)
    inputs = [path for path in begun.inputs if path]
    run = start_run(verb, begun.name, begun.config, args.out, seed, device, inputs)
    if begun.prepare is not None:
        begun.prepare(run)
    return run


def _resume(args: argparse.Namespace, verb: str, fixed: str, verify_inputs: bool) -> Run:
    names = (*_FIXED, *fixed.split())
    given = [name for name in names if getattr(args, name, None) not in (None, [], False)]
    if given:
        flags = ", ".join(name.replace("_", "-") for name in given)
        raise ConfigError(
            "run.resume_is_complete",
            f"A resumed run has its {flags} already.",
            "Give --resume without what the run was started with.",
        )
    was = run_state(args.resume)["record"]["verb"]
    if was != verb:
        raise _cannot_resume(args.resume, f"it is one of {was}")
    return open_run(args.resume, verify_inputs)


def _followed(
    args: argparse.Namespace, cls: type[_C], begin: Callable[[], Beginning], empty: Path
) -> tuple[_C, Path]:
    """Return settings and folder of the training that another process began or resumed."""
    if not args.resume:
        return begin().config, empty
    return load_config(cls, Path(args.resume) / "config.yaml"), Path(args.resume) / "outputs"


def _cannot_resume(path: str | os.PathLike[str], why: str) -> InputError:
    message = f"{path} is not a run that this verb can go on with: {why}."
    return InputError("run.cannot_resume", message, "Start it again.")
