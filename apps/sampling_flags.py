"""Flags that say how both stages of an object are sampled: together, and each alone."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scenes.objects.samplers import SamplerConfig

STAGES = ("structure", "latent")
SAMPLING = ("steps", "guidance", "interval", "rescale_t", *STAGES)
"""Names of all of them."""


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--steps", metavar="N", type=int, help="steps of both stages")
    parser.add_argument(
        "--guidance",
        metavar="S",
        type=float,
        help="guidance scale of both stages; 1: none (TRELLIS's cfg_strength + 1)",
    )
    parser.add_argument(
        "--interval",
        metavar=("LOW", "HIGH"),
        type=float,
        nargs=2,
        help="times at which guidance acts, both ends included",
    )
    parser.add_argument(
        "--rescale-t", metavar="R", type=float, help="above 1: shorter steps near the noise"
    )
    for stage in STAGES:
        parser.add_argument(
            f"--{stage}",
            metavar="KEY=VALUE",
            nargs="+",
            default=[],
            help=f"sampling of the {stage} alone: steps, guidance_scale or cfg_strength, "
            "interval, rescale_t",
        )


def chosen_samplers(
    args: argparse.Namespace, samplers: tuple[SamplerConfig, SamplerConfig]
) -> tuple[SamplerConfig, SamplerConfig]:
    """Return the samplers of both stages, changed as the flags say.

    Raises:
        ConfigError: ``sampler.bad_config``.
    """
    from scenes.objects.samplers import changed

    given = {
        "steps": args.steps,
        "guidance_scale": args.guidance,
        "interval": tuple(args.interval) if args.interval else None,
        "rescale_t": args.rescale_t,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    structure, latent = (
        changed(replace(sampler, **changes), getattr(args, stage) or ())
        for stage, sampler in zip(STAGES, samplers, strict=True)
    )
    return structure, latent
