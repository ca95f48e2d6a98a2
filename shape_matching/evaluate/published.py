"""Numbers of the literature to print beside ours: mean geodesic error x100.

They were read from published tables, not measured here.  Protocols differ in detail (190 or 400
pairs, heat or exact geodesics, aligned or raw shapes), so treat differences below 5 % as none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published number."""

    method: str
    error: float
    kind: str
    """How the method is obtained: axiomatic, zero-shot, or trained on the category."""
    source: str


_TABLE = "comparison table of Memory-Scalable FMaps, CVPR 2024"
_DIFFUMATCH = "DiffuMatch, ICCV 2025 (arXiv 2507.23715)"

_FAUST = (
    Published("BCICP", 6.1, "axiomatic", _TABLE),
    Published("ZoomOut", 6.1, "axiomatic", _TABLE),
    Published("Smooth Shells", 2.5, "axiomatic", _TABLE),
    Published("DiscreteOp", 5.6, "axiomatic", _TABLE),
    Published("SNK", 1.8, "zero-shot", _DIFFUMATCH),
    Published("DiffuMatch", 1.9, "zero-shot", _DIFFUMATCH),
    Published("ULRSSM", 1.6, "trained on FAUST", _TABLE),
)

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "faust_r": _FAUST,
    "faust_400": _FAUST,
    "scape_r": (
        Published("BCICP", 11.0, "axiomatic", _TABLE),
        Published("ZoomOut", 7.5, "axiomatic", _TABLE),
        Published("Smooth Shells", 4.7, "axiomatic", _TABLE),
        Published("DiscreteOp", 13.1, "axiomatic", _TABLE),
        Published("SNK", 4.7, "zero-shot", _DIFFUMATCH),
        Published("DiffuMatch", 4.4, "zero-shot", _DIFFUMATCH),
        Published("ULRSSM", 1.8, "trained on SCAPE", _TABLE),
    ),
    "shrec19_r": (
        Published("SNK", 5.8, "zero-shot", _DIFFUMATCH),
        Published("DiffuMatch", 3.9, "zero-shot", _DIFFUMATCH),
        Published("ULRSSM", 7.9, "trained on FAUST and SCAPE", _TABLE),
    ),
    "smal_r": (
        Published("SNK", 9.1, "zero-shot, aligned shapes", _DIFFUMATCH),
        Published("DiffuMatch", 10.1, "zero-shot, aligned shapes", _DIFFUMATCH),
    ),
    "dt4d_intra": (
        Published("SNK", 2.0, "zero-shot", _DIFFUMATCH),
        Published("DiffuMatch", 1.8, "zero-shot", _DIFFUMATCH),
        Published("ULRSSM", 0.9, "trained on DT4D-H", _TABLE),
    ),
    "dt4d_inter": (
        Published("SNK", 9.0, "zero-shot", _DIFFUMATCH),
        Published("DiffuMatch", 8.6, "zero-shot", _DIFFUMATCH),
        Published("ULRSSM", 4.4, "trained on DT4D-H", _TABLE),
    ),
    "tosca": (
        Published("SNK", 3.6, "zero-shot", _DIFFUMATCH),
        Published("DiffuMatch", 2.9, "zero-shot", _DIFFUMATCH),
    ),
}
"""Published numbers by protocol (see `shape_matching.evaluate.protocols`)."""
