"""What lies in the folder of a teacher: plain data only, under the names people's folders have.

Read are local JSON and safetensors.  A folder that also holds code or pickles is refused whole,
since another program that opens it might run them.  Links are followed only where they stay in the
folder, or lead to the blobs of the hub's cache that the folder is a snapshot of:

    models--ORG--NAME/refs/main          names a snapshot
    models--ORG--NAME/snapshots/HASH/    the folder; its files are links to
    models--ORG--NAME/blobs/SHA          the contents

Weights may be one file or shards with an index, plain or of a variant ("fp16").
"""

from __future__ import annotations

import re
from pathlib import Path

from geo3d.checkpoints import read_header
from geo3d.errors import CheckpointError
from geo3d.files import sha256_file

UNSAFE = (
    *(".py", ".pyc", ".so", ".dll", ".pkl", ".pickle"),
    *(".pt", ".pth", ".bin", ".ckpt", ".joblib"),
)
"""File names that end like this can hold code."""
SINGLE = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
"""Files in which single networks are passed around."""
NETWORK, TEXT = "diffusion_pytorch_model", "model"
"""How weights are called by diffusers and by transformers."""
_PREFERRED = ("fp16", "bf16")
_SNAPSHOTS = 3
"""How many folders above a part the snapshot may be."""


def check_folder(folder: str | Path) -> Path:
    """Return the folder that is meant by ``folder``, when all it holds is plain data.

    A folder of the hub's cache stands for its snapshot.

    Raises:
        CheckpointError: ``teacher.no_folder``, ``teacher.not_a_folder``, ``teacher.unsafe_file``,
            ``teacher.link``.
    """
    folder = Path(folder)
    root = snapshot_of(folder.resolve() if folder.is_symlink() else folder)
    if root.is_file():
        raise CheckpointError(
            "teacher.not_a_folder",
            f"{root} is a file; a teacher is a folder as diffusers writes it.",
            "diffusers makes one: StableDiffusionPipeline.from_single_file(FILE)"
            ".save_pretrained(FOLDER).",
        )
    if not root.is_dir():
        raise CheckpointError(
            "teacher.no_folder",
            f"There is no folder {root}.",
            "Name a local folder as diffusers writes it; nothing is downloaded.",
        )
    unsafe = []
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            _check_link(path, root)
        if path.suffix.lower() in UNSAFE:
            unsafe.append(path)
    if unsafe:
        more = f", and {len(unsafe) - 1} more files" if len(unsafe) > 1 else ""
        raise CheckpointError(
            "teacher.unsafe_file",
            f"{unsafe[0]} can hold code{more}.",
            "Move it away: safetensors and JSON are all that is read.  Where there are no "
            "safetensors beside it, `geo3d convert FILE` makes them.",
        )
    return root


def controlnet_folder(path: str | Path, teacher: str | Path) -> Path:
    """Return the folder of a ControlNet, which may be that of a whole pipeline.

    Raises:
        CheckpointError: as `check_folder`; ``teacher.controlnet_file`` for a single file, with the
            command that makes a folder of it.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() in SINGLE:
        out = path.with_suffix("")
        raise CheckpointError(
            "teacher.controlnet_file",
            f"{path} is a file; a ControlNet is a folder as diffusers writes it.",
            f"Convert it, which runs nothing in it: "
            f"geo3d convert {path} --unet {teacher or 'TEACHER'} --out {out}",
        )
    root = check_folder(path)
    inner = root / "controlnet"
    return inner if inner.is_dir() and not (root / "config.json").is_file() else root


def snapshot_of(folder: Path) -> Path:
    """Return the snapshot of a folder of the hub's cache; any other folder itself.

    Raises:
        CheckpointError: ``teacher.no_folder`` for a cache without a snapshot that is whole.
    """
    if not (folder / "snapshots").is_dir() or (folder / "model_index.json").is_file():
        return folder
    found = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    named = main.read_text("utf-8", "replace").strip() if main.is_file() else ""
    chosen = [path for path in found if path.name == named] or found
    if len(chosen) != 1:
        raise CheckpointError(
            "teacher.no_folder",
            f"{folder} holds {len(found)} snapshots, and refs/main names none of them.",
            f"Name one: {', '.join(map(str, found)) or 'download it again'}.",
        )
    return chosen[0]


def weights_variant(folder: Path, stem: str = NETWORK) -> str | None:
    """Return the variant ("fp16") of a folder's safetensors; None where they have plain names.

    Raises:
        CheckpointError: ``teacher.missing_part`` without safetensors.
    """
    names = {path.name for path in folder.iterdir()}
    if {f"{stem}.safetensors", f"{stem}.safetensors.index.json"} & names:
        return None
    forms = (r"\.([\w-]+?)(?:-\d+-of-\d+)?\.safetensors", r"\.safetensors\.index\.([\w-]+)\.json")
    found = {
        match[1] for name in names for form in forms if (match := re.fullmatch(stem + form, name))
    }
    if not found:
        raise CheckpointError(
            "teacher.missing_part",
            f"{folder} has no weights {stem}.safetensors.",
            "Take the safetensors of the model, or make them of a torch file: geo3d convert FILE.",
        )
    return next((name for name in _PREFERRED if name in found), sorted(found)[0])


def check_weights(folder: Path, stem: str = NETWORK) -> None:
    """Look at the headers of a folder's weights: files cut off, or notes that git-lfs left.

    Raises:
        CheckpointError: ``teacher.missing_part``, ``checkpoint.pointer``, ``checkpoint.damaged``.
    """
    variant = weights_variant(folder, stem)
    mark = rf"\.{re.escape(variant)}" if variant else ""
    shard = r"(-\d+-of-\d+)?"
    name = re.compile(rf"{stem}({mark}{shard}|{shard}{mark})\.safetensors")
    for path in sorted(folder.iterdir()):
        if name.fullmatch(path.name):
            read_header(path)


def fingerprints(*folders: str | Path) -> dict[str, str]:
    """Return the SHA-256 of every file of weights below folders, by its path."""
    found = [path for one in folders for path in sorted(Path(one).rglob("*.safetensors"))]
    return {str(path): sha256_file(path) for path in found}


def _check_link(path: Path, root: Path) -> None:
    target = path.resolve()
    if not target.exists():
        raise CheckpointError(
            "teacher.link",
            f"{path} is a link that leads nowhere.",
            "The download did not end, or the cache was cleaned: download it again.",
        )
    allowed = [root.resolve()]
    for folder in [root, *root.parents][: _SNAPSHOTS + 1]:
        if folder.parent.name == "snapshots":
            allowed.append((folder.parent.parent / "blobs").resolve())
    if not (target.is_file() and any(target.is_relative_to(place) for place in allowed)):
        raise CheckpointError(
            "teacher.link",
            f"{path} is a link that leads out of the folder.",
            f"Copy the files themselves: cp -rL {root} NEW_FOLDER.",
        )
    if target.suffix.lower() in UNSAFE:
        raise CheckpointError("teacher.unsafe_file", f"{target} can hold code.", "Move it away.")
