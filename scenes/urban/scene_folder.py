"""A scene on disk: settings and layout as JSON, trained blocks as safetensors.

FOLDER/scene.json, written last; FOLDER/layout.json; FOLDER/blocks/*.safetensors.  A block that was
never trained has no file: it is made again from the seed and its name.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path

import torch

from geo3d.config import config_from_dict, config_to_dict
from geo3d.errors import ConfigError, FileFormatError, InputError
from geo3d.fields.hashgrid import Backend
from geo3d.files import atomic_write_json
from scenes.urban.config import FieldsConfig
from scenes.urban.layout_json import load_layout, save_layout
from scenes.urban.scene import Scene

FORMAT = "geo3d.street_scene"
_BLOCKS, _LAYOUT, _SCENE = "blocks", "layout.json", "scene.json"


def save_scene(scene: Scene, folder: str | PathLike[str], moments: bool = True) -> Path:
    """Write a scene; return the folder.

    Args:
        moments: include the optimiser's, so that training can go on; three times the size.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    blocks = scene.blocks.export(target / _BLOCKS, moments)
    save_layout(scene.layout, target / _LAYOUT)
    config = config_to_dict(scene.config)
    # what computed the hash grids does not matter to who opens them, perhaps on another machine
    config.pop("backend")
    content = {
        "format": FORMAT,
        "version": 1,
        "config": config,
        "blocks": list(blocks),
    }
    atomic_write_json(target / _SCENE, content)
    return target


def load_scene(
    folder: str | PathLike[str],
    work: Path | None = None,
    backend: Backend = "auto",
    device: torch.device | str = "cpu",
) -> Scene:
    """Open a scene; the folder itself is never written.

    Args:
        work: where blocks go that further training changes; None uses a temporary folder.
        backend: of the hash grids, see `FieldsConfig.backend`.
        device: where its fields lie.

    Raises:
        InputError: ``scene.missing``, and those of `load_layout`.
        FileFormatError: ``scene.not_a_scene``.
    """
    source = Path(folder)
    if not (source / _SCENE).is_file():
        raise InputError(
            "scene.missing", f"{folder} holds no scene.", "Give a folder with scene.json in it."
        )
    try:
        content = json.loads((source / _SCENE).read_text("utf-8"))
        if content["format"] != FORMAT or content["version"] != 1:
            raise ValueError("another format or version")
        config = config_from_dict(FieldsConfig, {**content["config"], "backend": backend})
        missing = [name for name in content["blocks"] if not (source / _BLOCKS / name).is_file()]
        if missing:
            raise ValueError(f"{len(missing)} blocks are missing, {missing[0]} first")
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise FileFormatError(
            "scene.not_a_scene",
            f"{source / _SCENE} cannot be read: {error}.",
            "It may be cut off, or of another version; save the scene again.",
        ) from error
    layout = load_layout(source / _LAYOUT)
    return Scene(config, layout, work, source=source / _BLOCKS, device=device)
