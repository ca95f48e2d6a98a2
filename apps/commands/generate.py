"""Make a 3D object from an image: mesh, Gaussians, previews.

  geo3d generate chair.png
  geo3d generate chair.png --steps 1 --count 4 --faces 20000 --formats glb obj
  geo3d generate chair.png --student
  geo3d generate front.png side.png --views
  geo3d generate *.png --model TRELLIS-image-large --encoder dinov2-with-registers-large
  geo3d generate chair.png --model DIR --estimate
  geo3d generate photo.jpg --mask outline.png
  geo3d generate chair.png --structure steps=12 cfg_strength=7.5 --latent steps=12 cfg_strength=3

An object that is cut out (transparent around it) is taken as it is; --mask FILE tells it (white, or
opaque; one file per image); else it is told from a plain background, or cut out of a photograph
by its colours (extra `photos`).  --model
names a folder of networks as published (pipeline.json); without it the shipped small pipeline is
used.  With --student, or with --steps 1 or 2, its few-step students (student.json) take the
place of its flows, if it has any; --no-student keeps the flows; --both takes one after the other
and tells the times of each.  Object number i of an image has the seed --seed + i.

Both stages have steps, guidance, the interval of times in which it acts (1 noise, 0 data) and
rescale_t (above 1: shorter steps near the noise).  --steps, --guidance, --interval and --rescale-t
set both stages, --structure and --latent one, with KEY=VALUE of steps, guidance_scale or
cfg_strength, interval=LOW,HIGH, rescale_t.  A guidance scale s is u + s (c - u), 1 means none;
TRELLIS and MDT-dist write the strength w = s - 1: their cfg_strength 7.5 is our scale 8.5.

The run folder holds, for each object: outputs/NAME.glb (and --formats), NAME-gaussians.ply,
NAME-latent.safetensors, previews/NAME.png, previews/NAME-gaussians.png, previews/NAME-picture.png
(what the networks saw), and metrics.json with the time of every stage.  Images that cannot be
used, and objects without a voxel, are named; the others are made all the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from apps.commands import add_common, emit, failed_lines, show_run, unique_names
from apps.running import Beginning, require_files, require_folders, run_verb
from apps.sampling_flags import SAMPLING, add_sampling, chosen_samplers
from geo3d.errors import ConfigError, InputError, NumericalError
from geo3d.files import asset
from geo3d.progress import ProgressCallback
from geo3d.runs import Run
from geo3d.work.tables import aligned

if TYPE_CHECKING:
    from PIL import Image

    from scenes.objects.export import ExportConfig
    from scenes.objects.pipeline import GenerateConfig, Pipeline
    from scenes.objects.pipeline_folder import Variant

SHIPPED = "objects/pipeline"
"""The shipped pipeline, among the assets."""
MOST_STUDENT_STEPS = 2
"""Up to so many steps, a pipeline's students are used by default."""
BAD_INPUT = 3
"""Exit code when some of several images could not be used."""
STUDENT = "-student"
"""Ending of the names of what students make, with --both."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``geo3d generate``."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="pictures of objects")
    parser.add_argument("--model", metavar="DIR", help="pipeline folder (default: the shipped one)")
    parser.add_argument("--encoder", metavar="DIR", help="folder of the image encoder")
    parser.add_argument("--views", action="store_true", help="all images show one object")
    parser.add_argument("--count", metavar="N", type=int, default=1, help="objects per image")
    parser.add_argument(
        "--student",
        action=argparse.BooleanOptionalAction,
        help="use the few-step students (default: with --steps 1 or 2)",
    )
    parser.add_argument(
        "--both",
        action="store_true",
        help="make every object twice: with the flows, and as NAME-student with the students",
    )
    parser.add_argument(
        "--student-steps", metavar="N", type=int, help="steps of the students, with --both"
    )
    add_sampling(parser)
    parser.add_argument(
        "--mask", metavar="FILE", nargs="+", help="where the object is, one file per image"
    )
    parser.add_argument(
        "--outputs",
        nargs="+",
        choices=("mesh", "gaussian", "radiance"),
        help="what to decode (default: mesh and Gaussians, if the pipeline can)",
    )
    parser.add_argument(
        "--as-published",
        action="store_true",
        help="keep the structure's gaps and the mesh's inner walls and open edges",
    )
    parser.add_argument("--faces", metavar="N", type=int, help="most faces of a mesh")
    parser.add_argument(
        "--texture", metavar="N", type=int, help="colours of the GLB as a texture of N x N"
    )
    parser.add_argument("--formats", metavar="F", nargs="+", default=["glb"], help="glb obj ply")
    parser.add_argument(
        "--gaussian-frame",
        choices=("y_up", "published"),
        default="y_up",
        help="axes of the Gaussians: the mesh's, or as TRELLIS writes them",
    )
    parser.add_argument(
        "--gaussian-sh",
        metavar="N",
        type=int,
        default=0,
        help="degree 1 to 3: with columns f_rest_* of zeros, for viewers that want them",
    )
    parser.add_argument(
        "--torso",
        choices=("float32", "float16", "bfloat16"),
        help="type of the networks' weights (default: chosen for the device)",
    )
    parser.add_argument(
        "--low-memory", action="store_true", help="keep one network at a time in memory"
    )
    parser.add_argument(
        "--estimate", action="store_true", help="tell memory and time, and make nothing"
    )
    add_common(parser, "seed", "device", "out", "threads", "json", "quiet")
    parser.set_defaults(seed=0)


def run(args: argparse.Namespace) -> int:
    """Make the objects, write the run folder, print the numbers."""
    if not any(Path(image).is_file() for image in args.images):
        require_files(*args.images)
    require_folders(args.model, args.encoder)
    require_files(*(args.mask or ()))
    if args.mask and len(args.mask) != len(args.images):
        raise ConfigError(
            "generate.wrong_masks",
            f"There are {len(args.mask)} masks for {len(args.images)} images.",
            "Give one mask per image, in the same order.",
        )
    from scenes.objects.export import ExportConfig
    from scenes.objects.folder_check import require_whole

    first = argparse.Namespace(**{**vars(args), "student": False}) if args.both else args
    pipeline, folder = _pipeline(first)
    config = _config(first, pipeline)
    variants: list[Variant] = ["student" if _is_student(first, folder) else "pipeline"]
    if args.both:
        variants.append("student")
    for variant in variants:
        require_whole(folder, args.encoder, config.outputs, variant)
    chosen = ExportConfig(
        tuple(args.formats),
        args.faces,
        args.texture,
        gaussian_frame=args.gaussian_frame,
        sh_degree=args.gaussian_sh,
    )
    expected = _estimate(args, pipeline, config)
    if args.estimate:
        emit(args, expected, _estimate_text(expected))
        return 0

    def work(run: Run, progress: ProgressCallback) -> None:
        metrics = _make_all(args, run, pipeline, (config, chosen), progress)
        if args.both:
            metrics["student"] = _make_again(args, run, chosen, progress)
        metrics = {**metrics, "estimate": expected, "model": str(folder)}
        run.finish(metrics, backends={"torso": str(pipeline.torso)})

    inputs = [path for path in args.images if Path(path).is_file()]
    done = run_verb(args, "generate", Beginning(Path(args.images[0]).stem, config, inputs), work)
    show_run(args, done, _text(done.numbers, done))
    return BAD_INPUT if done.numbers["failed"] else 0


def _make_again(
    args: argparse.Namespace, run_folder: Run, chosen: ExportConfig, progress: ProgressCallback
) -> dict[str, Any]:
    """Make the objects with the students, stepped and guided as these want it.

    That the students fail where the flows did not is a finding of the comparison, and no error.
    """

    def tell(event: Mapping[str, Any]) -> None:
        progress({**event, "stage": f"{event['stage']}{STUDENT}"})

    changes = {**dict.fromkeys(SAMPLING), "student": True, "steps": args.student_steps}
    student = argparse.Namespace(**{**vars(args), **changes})
    pipeline, _ = _pipeline(student)
    configs = (_config(student, pipeline), chosen)
    try:
        return _make_all(student, run_folder, pipeline, configs, tell, STUDENT)
    except NumericalError as error:
        failed = [{"image": args.images[0], **error.to_dict()}]
        return {"objects": [], "failed": failed, "seconds": {}, "calls": {}, "seconds_in_all": 0.0}


def _pipeline(args: argparse.Namespace) -> tuple[Pipeline, Path]:
    from geo3d.device import pick_device
    from scenes.objects.pipeline import load_pipeline
    from scenes.objects.precision import TORSO_TYPES

    if args.count < 1:
        raise ConfigError("generate.bad_batch", f"Cannot make {args.count} objects.", "")
    folder = Path(args.model) if args.model else asset(SHIPPED)
    pipeline = load_pipeline(
        folder,
        pick_device(args.device),
        encoder=args.encoder,
        torso=TORSO_TYPES[args.torso] if args.torso else None,
        low_memory=args.low_memory,
        variant="student" if _is_student(args, folder) else "pipeline",
    )
    return pipeline, folder


def _is_student(args: argparse.Namespace, folder: Path) -> bool:
    if args.student is not None:
        return args.student
    is_few = args.steps is not None and args.steps <= MOST_STUDENT_STEPS
    return is_few and (folder / "student.json").is_file()


def _config(args: argparse.Namespace, pipeline: Pipeline) -> GenerateConfig:
    from scenes.objects.pipeline import GenerateConfig
    from scenes.objects.pipeline_folder import DECODERS, Output

    structure, latent = chosen_samplers(args, pipeline.samplers)
    usual: tuple[Output, ...] = ("mesh", "gaussian")
    outputs = args.outputs or [o for o in usual if DECODERS[o] in pipeline.networks]
    return GenerateConfig(
        structure=structure,
        latent=latent,
        outputs=cast("tuple[Output, ...]", tuple(outputs)),
        whole=not args.as_published,
        on_empty="keep",
    )


def _make_all(
    args: argparse.Namespace,
    run_folder: Run,
    pipeline: Pipeline,
    configs: tuple[GenerateConfig, ExportConfig],
    progress: ProgressCallback,
    ending: str = "",
) -> dict[str, Any]:
    from scenes.objects.familiar import note_unlikeness

    begun, failed = time.perf_counter(), []
    pictures = _prepared(args.images, args.mask, failed)
    seeds = [args.seed + i for i in range(args.count)]
    names = [name for name, _ in pictures]
    if args.views:
        batches = [
            pipeline.generate_from_views(
                [picture for _, picture in pictures], seed, configs[0], progress, prepared=True
            )
            for seed in seeds
        ]
        labels = [_label(names[0], seed, seeds) for seed in seeds]
    else:
        repeated = [picture for _, picture in pictures for _ in seeds]
        batches = [
            pipeline.generate(repeated, seeds * len(pictures), configs[0], progress, prepared=True)
        ]
        labels = [_label(name, seed, seeds) for name in names for seed in seeds]
    for name, picture in pictures:
        picture.save(run_folder.previews / f"{name}-picture.png")
    made = [item for batch in batches for item in batch.objects]
    named = [f"{label}{ending}" for label in labels]
    rows = _export(run_folder, list(zip(named, made, strict=True)), configs[1], failed)
    ready = [picture for _, picture in pictures]
    model = args.model or asset(SHIPPED)
    note_unlikeness(rows, model, pipeline, ready, args.encoder, views=args.views)
    return {
        "objects": rows,
        "failed": failed,
        "seconds": _sum(batch.seconds for batch in batches),
        "calls": _sum(batch.calls for batch in batches),
        "seconds_in_all": round(time.perf_counter() - begun, 3),
    }


def _prepared(
    images: Sequence[str], masks: Sequence[str] | None, failed: list[dict[str, Any]]
) -> list[tuple[str, Image.Image]]:
    """Return names and prepared images; what cannot be used goes to ``failed``."""
    from scenes.objects.image import prepare_image
    from scenes.objects.image_files import read_image, read_mask

    found: list[Image.Image] = []
    used = []
    for image, outline in zip(images, masks or [None] * len(images), strict=True):
        try:
            whole = read_image(image)
            mask = None if outline is None else read_mask(outline, whole.size)
            found.append(prepare_image(whole, mask=mask))
            used.append(image)
        except InputError as error:
            if len(images) == 1:
                raise
            failed.append({"image": image, **error.to_dict()})
    if not found:
        raise InputError("generate.no_image", "None of the images can be used.", "")
    return list(zip(unique_names(used), found, strict=True))


def _export(
    run_folder: Run,
    made: Sequence[tuple[str, Any]],
    config: ExportConfig,
    failed: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    from scenes.objects.export import export
    from scenes.objects.pipeline import empty_structure

    if all(item.is_empty for _, item in made):
        raise empty_structure([item.seed for _, item in made])
    rows = []
    for name, item in made:
        if item.is_empty:
            failed.append({"image": name, **empty_structure([item.seed]).to_dict()})
        rows.append(export(item, name, (run_folder.outputs, run_folder.previews), config))
    return rows


def _estimate(
    args: argparse.Namespace, pipeline: Pipeline, config: GenerateConfig
) -> dict[str, Any]:
    from scenes.objects.estimate import estimate, measured_rate

    objects = args.count * (1 if args.views else len(args.images))
    rate = measured_rate(pipeline.device, pipeline.torso)
    return estimate(pipeline, config, objects, rate)


def _estimate_text(expected: Mapping[str, Any]) -> str:
    columns = ("network", "M parameters", "GiB", "TFLOP")
    rows = [
        (
            row["key"],
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['bytes'] / 2**30:.2f}",
            f"{row['flops'] / 1e12:.2f}",
        )
        for row in expected["networks"]
    ]
    return (
        f"{aligned(columns, rows)}\nabout {expected['peak_bytes'] / 2**30:.2f} GiB at most, "
        f"{expected['seconds']:.1f} s at {expected['flops_per_second'] / 1e9:.0f} GFLOP/s"
    )


def _label(name: str, seed: int, seeds: Sequence[int]) -> str:
    return name if len(seeds) == 1 else f"{name}-{seed}"


def _sum(parts: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = round(total.get(key, 0) + value, 4)
    return total


def _text(metrics: Mapping[str, Any], run_folder: Run) -> str:
    lines = _lines(metrics)
    if "student" in metrics:
        lines += ["students:", *_lines(metrics["student"])]
    lines.append(f"results: {run_folder.outputs}\npreviews: {run_folder.previews}")
    return "\n".join(lines)


def _lines(metrics: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in metrics["objects"]:
        parts = [f"{row['voxels']} voxels"]
        parts += [f"{row[k]} {k}" for k in ("vertices", "faces", "gaussians") if k in row]
        if row.get("open_edges"):
            parts.append(f"{row['open_edges']} of {row['edges']} edges open")
        lines.append(f"{row['name']}: {', '.join(parts)}")
        lines += [f"  note: {note}" for note in row["notes"]]
    lines += failed_lines(metrics["failed"])
    spent = ", ".join(f"{stage} {t:.2f}" for stage, t in metrics["seconds"].items())
    lines.append(f"seconds: {spent}; in all {metrics['seconds_in_all']:.2f}")
    return lines
