"""The command ``geo3d``: chooses a verb, runs it, and turns errors into messages and exit codes.

Exit codes: 0 ok, 1 unexpected, 2 usage or settings, 3 input, 4 backend, 5 numerical, 6 limit,
130 cancelled.  Only the chosen verb's module is imported, so ``geo3d --help`` is immediate.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from geo3d import __version__
from geo3d.errors import Cancelled, Geo3dError, printable
from geo3d.threads import settle_threads

VERBS: dict[str, str] = {
    "doctor": "what this machine has, what is missing, how to get it",
    "check": "look for defects in a mesh file",
    "convert": "turn a foreign weight file (pickle) into safetensors, safely",
    "demo": "show all four methods on shipped examples, on one page",
    "match": "find the correspondence between two meshes",
    "evaluate": "measure a matching method on a dataset",
    "train": "train a prior, corrector, segmenter, objects, or a teacher of streets",
    "data": "make training data from nothing: maps, objects, street images",
    "generate": "make a 3D object from an image",
    "layout": "import, check and show layouts of streets",
    "scene": "make a street scene from a layout",
    "segment": "find the mortar of brick walls in images, count components and holes",
    "segment-report": "tell which of several folders of masks is better, and how surely",
    "scenes": "build many street scenes: layouts x prompts x seeds, in parallel, resumable",
    "distill": "train few-step students (and teachers) of image-to-3D",
    "bench": "time the building blocks on this machine, compare ways of training",
    "view": "show a run as one HTML file: 3D, images, numbers, command",
    "runs": "list, find, tag and delete runs",
    "app": "open the workbench in a browser",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose error names the nearest verb or flag and exits with code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    # Before a verb loads torch: the libraries read it then.
    settle_threads()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--"]:
        del arguments[0]
    verb = next((a for a in arguments if not a.startswith("-")), None)
    if verb is None or arguments[0].startswith("-"):
        return _top_level(arguments)
    if verb not in VERBS:
        return _unknown_verb(verb)
    try:
        module = importlib.import_module(f"apps.commands.{verb.replace('-', '_')}")
    except Geo3dError as error:
        return _fail(argparse.Namespace(json="--json" in arguments), error, error.exit_code)
    parser = _Parser(prog=f"geo3d {verb}", description=module.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    args = parser.parse_args(arguments[1:])
    settle_threads(getattr(args, "threads", None))
    # The run's log.txt gets everything; the terminal only what needs attention.
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    terminal.addFilter(_plain)
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[terminal])
    return _run(module, args)


def _top_level(arguments: Sequence[str]) -> int:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, text in VERBS.items())
    parser = _Parser(
        prog="geo3d",
        usage="geo3d VERB [options]   (geo3d VERB --help tells more)",
        description="A 3D and geometry distillation workbench.",
        epilog=f"verbs:\n{verbs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"geo3d {__version__}")
    parser.parse_args(list(arguments))
    parser.print_help()
    return 0


def _unknown_verb(verb: str) -> int:
    near = difflib.get_close_matches(verb, VERBS, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    print(f"geo3d: there is no verb {verb!a}.{guess}", file=sys.stderr)
    print(f"  verbs: {', '.join(VERBS)}", file=sys.stderr)
    return 2


def _run(module: object, args: argparse.Namespace) -> int:
    try:
        return int(module.run(args) or 0)  # type: ignore[attr-defined]
    except Geo3dError as error:
        return _fail(args, error, error.exit_code)
    except KeyboardInterrupt:
        return _fail(args, Cancelled("Interrupted."), 130)
    except BrokenPipeError:
        # The reader of our stdout went away (`geo3d ... | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(args, _system_error(error), 1)
    except Exception as error:
        # safetensors tells a full disk in an error of its own
        if os.strerror(errno.ENOSPC) in str(error):
            return _fail(args, _system_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))), 1)
        if os.environ.get("GEO3D_DEBUG"):
            traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        wrapped = Geo3dError("internal.unexpected", text, "Set GEO3D_DEBUG=1 to see where.")
        return _fail(args, wrapped, 1)


def _system_error(error: OSError) -> Geo3dError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return Geo3dError(
            "system.disk_full",
            f"The disk is full{where}: {error.strerror}.",
            "Make room, then go on with --resume where the verb has it; what was saved is whole.",
        )
    return Geo3dError("system.os_error", str(error), "")


def _plain(record: logging.LogRecord) -> bool:
    """Write out control characters of a record that goes to the terminal."""
    record.msg, record.args = printable(record.getMessage()), None
    return True


def _fail(args: argparse.Namespace, error: Geo3dError, code: int) -> int:
    if getattr(args, "json", False):
        print(json.dumps({"error": {**error.to_dict(), "exit_code": code}}))
    else:
        print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
