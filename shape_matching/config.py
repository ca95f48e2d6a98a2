"""What can be set when two shapes are matched.

Lengths are relative to shapes of unit area; sizes count eigenfunctions, samples or vertices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from geo3d.config import require, require_at_least
from shape_matching.prior.zero_shot_config import ZeroShotConfig

Improvement = Literal["correct", "optimise"]
Start = Literal["signs", "tree", "frames", "wks", "features"]


@dataclass(frozen=True)
class MatchConfig:
    """Settings of `shape_matching.match.match`; the defaults suit near-isometric shapes."""

    starts: tuple[Start, ...] = ("signs", "tree", "frames", "wks")
    """Families of initial maps (see `shape_matching.search.initial_maps`); landmarks or a given map
    replace them.  "features" is the zero-shot method as published: it needs shapes that stand
    alike."""
    k_final: int = 200
    """Size of the final functional map."""
    refinement: Literal["coupled", "zoomout"] = "coupled"
    """Final refinement: by spectrum, registered positions, normals and curvature together
    (`shape_matching.search.coupled`), or by the spectrum alone."""
    refine_vertices: int = 8_000
    """Shapes with more vertices are refined on samples until the last passes."""
    step_final: int = 4
    """Growth of the map per pass of the refinement "zoomout"."""
    n_samples: int = 1500
    """Farthest-point samples per shape on which hypotheses are refined."""
    n_hypotheses: int = 40
    """Hypotheses kept after the first, coarse ranking."""
    n_finalists: int = 8
    """Distinct hypotheses compared in full before the final refinement."""
    choose: int = 1
    """Which of the maps that differ in a part is refined, the best first: 2 takes the alternative,
    where a head, limbs, or front and back came out exchanged."""
    laplacian: Literal["auto", "cotan", "robust"] = "auto"
    """Laplacian of meshes; point clouds always get the robust one."""
    max_vertices: int = 20_000
    """Meshes with more vertices are decimated, matched and upsampled."""
    coarse_vertices: int = 8_000
    """Vertices after that decimation."""
    precise: bool = False
    """Whether the final map is read off the triangles of the source (precise map), then rounded."""
    partial: Literal["auto", "yes", "no"] = "auto"
    """Whether one shape, or both, may be a piece of what the other shows: then vertices without
    counterpart map to -1.  "auto" takes shapes of one unit of which one is cut and lacks a good
    part of the area (`shape_matching.partial.match_partial.looks_partial`)."""
    kinds: Literal["auto", "yes", "no"] = "auto"
    """Whether the shapes may be animals of different kinds: then maps by places on their bodies are
    tried too (`shape_matching.anatomy.across`).  "auto" does so where the best map of the search is
    far from keeping distances."""
    anatomy: str = ""
    """File of the network of places; empty means the shipped one."""
    cache: bool = True
    """Whether eigenbases are kept on disk (GEO3D_CACHE) for the next time."""
    icp_iterations: int = 0
    """Iterations of spectral ICP before the final refinement."""
    improve: bool = False
    """Whether the chosen map is improved with what was learned from other shapes before the final
    refinement; what the method "diffumatch" adds."""
    improvements: tuple[Improvement, ...] = ("correct", "optimise")
    """How: steps that each start from the map of the one before.  "correct" asks the corrector
    (`shape_matching.corrector.corrector`), "optimise" optimises features for the pair under the
    spectral prior (`shape_matching.prior.zero_shot`), which takes seconds."""
    corrector: str = ""
    """File of the corrector; empty means the shipped one."""
    prior: str = ""
    """File of the spectral prior; empty means the shipped one."""
    zero_shot: ZeroShotConfig = field(default_factory=ZeroShotConfig)
    """Settings of that optimisation."""
    seed: int = 0
    """Seed of that optimisation's first weights and noise."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "k_final step_final n_samples n_hypotheses n_finalists choose")
        require(self.k_final >= 20, "k_final", "at least 20")
        require(bool(self.starts), "starts", "at least one family")
        require(self.icp_iterations >= 0, "icp_iterations", "0 or more")
        require(self.refine_vertices >= 0, "refine_vertices", "0 or more")
        require(
            100 <= self.coarse_vertices <= self.max_vertices,
            "coarse_vertices",
            "100 or more, and at most max_vertices",
        )


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "fast": {
        "k_final": 100,
        "refine_vertices": 0,
        "improvements": ["correct"],
        "step_final": 10,
    },
    "accurate": {"refine_vertices": 20_000, "n_hypotheses": 48, "n_finalists": 10},
}
"""Named differences from the defaults.  "fast" searches like them, as a search cut short mirrors or
turns one pair in eight, and refines less."""
