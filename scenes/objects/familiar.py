"""How unlike a picture is to those a pipeline was trained on, from the tokens of its encoder.

The training pictures are summed up by the mean of each token and the covariance of all.  A token's
distance is that of Mahalanobis; a picture's is the one that 9 of 10 of its tokens stay below, over
that which 99 of 100 training pictures do: above 1 the networks are asked for what they have not
seen.  (Of the ways tried on the shipped encoder the mean token told photographs least, this one
best; an encoder this small still takes most of them for known.)

Notation: n pictures, l tokens, c channels.

Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples" (2018),
with one class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from geo3d import checkpoints
from geo3d.errors import Geo3dError, InputError
from geo3d.files import sha256_file
from geo3d.work.shards import read_batches
from scenes.objects.data.shards import OBJECT_SHARDS
from scenes.objects.image import prepare_image
from scenes.objects.models import load_model
from scenes.objects.pipeline import Pipeline, load_pipeline
from scenes.objects.pipeline_folder import encoder_path, is_own_encoder, read_pipeline

FILE = "ckpts/known_pictures.safetensors"
SHARE = 0.99
"""Of the training pictures that no warning is given for."""
FEWEST = 100
_OF_TOKENS = 0.9
_SHRINKAGE = 0.05
"""Weight of the mean variance in the covariance: directions without spread tell nothing."""


def write_known(folder: str | Path, encoder: Path, tokens: Sequence[Float[Tensor, "l c"]]) -> Path:
    """Store what the training pictures' tokens are like, and return the file.

    Every other picture sets the limit, so that it is not of those the covariance was taken from.

    Raises:
        InputError: ``known_pictures.too_few``.
    """
    if len(tokens) < FEWEST:
        raise InputError(
            "known_pictures.too_few",
            f"{len(tokens)} pictures do not tell what a model knows.",
            f"Give {FEWEST} or more.",
        )
    own, others = (torch.stack(list(tokens[start::2])).double() for start in (0, 1))
    mean = own.mean(dim=0)
    covariance = (own - mean).flatten(0, 1).T.cov()
    level = covariance.diagonal().mean()
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * level * torch.eye(len(covariance))
    root = torch.linalg.inv(torch.linalg.cholesky(covariance))
    limit = _distances(others, mean, root).quantile(SHARE)
    path = Path(folder) / FILE
    config = {"encoder_sha256": _fingerprint(encoder), "pictures": len(tokens), "share": SHARE}
    checkpoints.save(path, {"mean": mean.float(), "root": (root / limit).float()}, config)
    return path


def learn_known(objects: str | Path, model: str | Path) -> Path:
    """Store what the views in a folder of procedural objects are like to a pipeline's encoder.

    Raises:
        InputError: ``known_pictures.too_few``, and those of `read_batches`.
        FileFormatError: as `read_batches`.
        CheckpointError: as `load_pipeline`.
    """
    pipeline, encoder = load_pipeline(model), encoder_path(model, read_pipeline(model))
    own = load_model(encoder) if is_own_encoder(encoder) else None
    # an encoder may add its guess of the object, which is not what the picture is like
    count = getattr(getattr(own, "config", None), "picture_tokens", None)
    tokens = [
        pipeline.encode([prepare_image(Image.fromarray(view))])[0, :count]
        for batch in read_batches(OBJECT_SHARDS, objects)
        for views in batch.views
        for view in views
    ]
    return write_known(model, encoder, tokens)


def unlikeness(
    folder: str | Path,
    pipeline: Pipeline,
    pictures: Sequence[Image.Image],
    encoder: str | Path | None = None,
) -> list[float] | None:
    """Return the distance of prepared pictures, 1 at the limit; None if nothing fitting is stored.

    What was stored for other weights of the encoder says nothing, and neither does a damaged file.
    """
    try:
        known = checkpoints.load(Path(folder) / FILE)
        used = encoder_path(folder, read_pipeline(folder), encoder)
    except Geo3dError:
        return None
    if known.config.get("encoder_sha256") != _fingerprint(used):
        return None
    mean = known.tensors["mean"]
    tokens = pipeline.encode(pictures)[:, : len(mean)].float()
    return _distances(tokens, mean, known.tensors["root"]).tolist()


def note_unlikeness(
    rows: Sequence[dict[str, Any]],
    folder: str | Path,
    pipeline: Pipeline,
    pictures: Sequence[Image.Image],
    encoder: str | Path | None = None,
    *,
    views: bool = False,
) -> None:
    """Add distance and warning to the rows of `scenes.objects.export.export`, if anything is told.

    Rows come picture after picture, as many of each; with ``views`` each is of all pictures.
    """
    distances = unlikeness(folder, pipeline, pictures, encoder)
    if distances is None:
        return
    for number, row in enumerate(rows):
        distance = max(distances) if views else distances[number * len(distances) // len(rows)]
        row["unlikeness"] = round(distance, 3)
        row["notes"] += [warning(distance)] if distance > 1 else []


def warning(distance: float) -> str:
    """Return what to tell the user of a distance; "" up to the limit."""
    if distance <= 1:
        return ""
    return (
        f"The picture is unlike those this model was trained on ({distance:.1f} times as far as "
        f"{SHARE:.0%} of them): expect the nearest thing it knows."
    )


def _distances(
    tokens: Float[Tensor, "n l c"], mean: Float[Tensor, "l c"], root: Float[Tensor, "c c"]
) -> Float[Tensor, " n"]:
    return torch.linalg.norm((tokens - mean) @ root.T, dim=2).quantile(_OF_TOKENS, dim=1)


def _fingerprint(encoder: Path) -> str:
    own = Path(f"{encoder}.safetensors")
    return sha256_file(own if is_own_encoder(encoder) else encoder / "model.safetensors")
