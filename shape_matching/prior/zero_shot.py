"""Optimise a functional map for one pair of shapes under a spectral prior, without training data.

A network that is drawn anew gives features on both shapes; least squares turn these into functional
maps both ways, raw and regularised by a mask that the prior makes of the map (`prior_masks`).  The
network is trained until its map agrees with its own refinement by ZoomOut (the "proper" map) and
is plausible to the prior (score distillation).  Only the network's weights move.

Notation as in `geo3d.spectral.fmap`; maps of both directions are stacked (2, k, k), 12 before 21.
D(x; sigma) is the prior's denoiser of |C|.

Source: Pierson et al. 2025 (DiffuMatch, arXiv 2507.23715).  Preset "published" follows the released
code, defects included; see shape_matching/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geo3d.distill.preconditioning import Denoise
from geo3d.distill.score import denoiser_gradient, loss_with_gradient
from geo3d.errors import ConfigError, InputError, MeshError, NumericalError, ShapeError
from geo3d.progress import ProgressCallback, ignore_progress, report
from geo3d.spectral.fmap import laplacian_mask, resolvent_mask, solve_fmap
from geo3d.spectral.zoomout import sizes, zoomout, zoomout_hypotheses
from shape_matching.prior.feature_network import (
    DiffusionNet,
    Surface,
    canonical,
    input_values,
    stack_surfaces,
    surface,
)
from shape_matching.prior.masks import posterior_mask, shrinkage_mask, static_mask
from shape_matching.prior.prior import Prior
from shape_matching.prior.zero_shot_config import SdsForm, ZeroShotConfig
from shape_matching.search.prepare import Prepared

FIRST_MASK_WEIGHT = 1e-3
"""Weight of the Laplacian mask that makes the first regularised map when no map is given."""
OnStep = Callable[[int, Tensor, Mapping[str, float]], None]
"""Gets the step, the current fmap_12 (k, k) and the losses, now and then."""


@dataclass(frozen=True, eq=False)
class ZeroShotResult:
    """What `optimise` returns."""

    fmap_12: Float[Tensor, "k k"]
    fmap_21: Float[Tensor, "k k"]
    history: list[dict[str, float]]
    """Losses, one mapping per step."""
    stopped: str
    """"steps" or "plateau"."""
    kept_step: int
    """The step that gave the maps."""


def optimise(
    one: Prepared,
    two: Prepared,
    denoise: Denoise | Prior | None,
    config: ZeroShotConfig = ZeroShotConfig(),  # noqa: B008  (frozen)
    *,
    initial_fmaps: tuple[Tensor, Tensor] | None = None,
    generator: torch.Generator,
    progress: ProgressCallback = ignore_progress,
    on_step: OnStep | None = None,
) -> ZeroShotResult:
    """Return functional maps of size ``config.map_size`` between the two shapes.

    Args:
        denoise: D(x, sigma) for x (n, k, k), or the prior itself; the static mask needs the mean
            squares of the training maps under "second_moment" in its ``info``.  None where
            ``config.needs_prior`` is False.
        initial_fmaps: fmap_12 and fmap_21 of at least that size, from `shape_matching.match` or
            another start; carries the "coordinates" input and makes the first mask.
        generator: on the CPU; draws weights, noise and dropout.

    Raises:
        InputError: ``zero_shot.no_initial_map``, ``zero_shot.no_second_moment``,
            ``zero_shot.no_prior``.
        ShapeError: ``zero_shot.bad_initial_map``.
        MeshError: ``zero_shot.too_small`` when a shape has too few eigenpairs or points.
        NumericalError: ``zero_shot.diverged``, ``fmap.singular``.
        Cancelled: from ``progress``.
    """
    run = _Run(one, two, denoise, config, initial_fmaps, generator)
    history: list[dict[str, float]] = []
    best, best_step, kept_step, stopped = float("inf"), 0, 0, "steps"
    kept = torch.zeros(2, config.map_size, config.map_size)
    for step in range(config.steps):
        maps, losses = run.step(step)
        history.append(losses)
        better = losses["proper"] < (1 - config.plateau) * best
        if better:
            best, best_step = losses["proper"], step
        if better or config.keep == "last":
            kept, kept_step = maps, step
        report(progress, "optimisation", step + 1, config.steps, **losses)
        if on_step is not None and step % config.show_every == 0:
            on_step(step, maps[0], losses)
        if config.patience and step - best_step >= config.patience:
            stopped = "plateau"
            break
    return ZeroShotResult(kept[0], kept[1], history, stopped, kept_step)


class _Run:
    """The state of one optimisation: network, optimiser, current mask and maps."""

    def __init__(
        self,
        one: Prepared,
        two: Prepared,
        prior: Denoise | Prior | None,
        config: ZeroShotConfig,
        initial_fmaps: tuple[Tensor, Tensor] | None,
        generator: torch.Generator,
    ) -> None:
        self.shapes, self.config, self.generator = (one, two), config, generator
        self.place = one.rows.device
        _check_sizes(self.shapes, config)
        self.denoise = _denoiser(prior, config)
        initial = _stacked(initial_fmaps, config, self.place)
        self.fixed_mask = self._fixed_mask(prior)
        self.surfaces = self._surfaces()
        self.inputs = self._inputs(initial)
        self.network = DiffusionNet(
            self.inputs[0].shape[-1],
            config.features,
            config.width,
            config.blocks,
            gradient_features=all(s.gradients is not None for s in self.surfaces),
            generator=generator,
        ).to(self.place)
        self.optimiser = torch.optim.Adam(
            self.network.parameters(), lr=config.rate, betas=(0.9, 0.99)
        )
        seed = int(torch.randint(2**62, (), generator=generator))
        self.dropout = torch.Generator(self.place).manual_seed(seed) if config.dropout else None
        self.mask = self.fixed_mask
        self.known = initial
        """The regularised maps of the step before, or the initial ones if there are any."""

    def step(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """Return the maps that the losses look at and the losses, then move the weights."""
        source, target = self._coefficients()
        raw = solve_fmap(source, target).float()
        self._renew_mask(step, raw.detach(), source.detach(), target.detach())
        weight = self.config.mask_weight
        if self.mask is None:
            regularised = raw
        else:
            regularised = solve_fmap(source, target, self.mask.to(source), weight).float()
        self.known = regularised.detach()
        maps = raw if self.config.loss_map == "raw" else regularised
        losses = self._losses(maps, self._proper(regularised))
        total = torch.stack([weight * loss for weight, loss in losses.values()]).sum()
        if not bool(torch.isfinite(total)):
            raise NumericalError(
                "zero_shot.diverged",
                f"The optimisation left the finite numbers at step {step}.",
                "Lower the rate or the weights of the losses, or raise mask_weight.",
            )
        self.optimiser.zero_grad()
        total.backward()
        self.optimiser.step()
        self.network.constrain()
        shown = {name: float(loss.detach()) for name, (_, loss) in losses.items()}
        return maps.detach(), {**shown, "loss": float(total.detach())}

    def _losses(self, maps: Tensor, proper: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Return weight and value of each loss, summed over both directions."""
        config = self.config
        distance = ((maps - proper) ** 2).mean(dim=(1, 2)).sum()
        losses = {"proper": (config.w_proper, distance)}
        if config.w_sds:
            gradient = self._prior_gradient(maps.detach())
            value = sds_loss(maps, gradient, config.sds_form, config.rate).sum()
            losses["sds"] = (config.w_sds, value)
        identity = torch.eye(config.map_size, device=maps.device)
        if config.w_orthogonal:
            value = ((maps.mT @ maps - identity) ** 2).sum(dim=(1, 2)).mean()
            losses["orthogonal"] = (config.w_orthogonal, value)
        if config.w_bijective:
            value = ((maps @ maps.flip(0) - identity) ** 2).sum(dim=(1, 2)).mean()
            losses["bijective"] = (config.w_bijective, value)
        if config.w_laplacian:
            mask = self._spectral_mask("laplacian")
            losses["laplacian"] = (config.w_laplacian, (mask * maps**2).sum(dim=(1, 2)).mean())
        return losses

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        """Return features of source and target for both directions, (2, k, c) in float64."""
        size = self.config.map_size
        if len(self.surfaces) == 1:
            features = self.network(self.inputs[0], self.surfaces[0], self.dropout)
            both = self.surfaces[0].pull[:, :size] @ features
        else:
            both = torch.stack(
                [
                    s.pull[:size] @ self.network(values, s, self.dropout)
                    for values, s in zip(self.inputs, self.surfaces, strict=True)
                ]
            )
        both = both if both.device.type == "mps" else both.double()
        return both, both.flip(0)

    @torch.no_grad()
    def _renew_mask(self, step: int, raw: Tensor, source: Tensor, target: Tensor) -> None:
        config = self.config
        if config.mask not in ("diffusion", "posterior") or step % config.mask_every:
            return
        probed = raw if config.mask_of == "raw" else self.known
        if probed is None:
            first = self._spectral_mask("laplacian").to(source)
            probed = solve_fmap(source, target, first, FIRST_MASK_WEIGHT).float()
        noise = self._noise(len(probed), config.mask_probes)
        make = shrinkage_mask if config.mask == "diffusion" else posterior_mask
        self.mask = make(self.denoise, probed, noise, config.mask_sigma)

    @torch.no_grad()
    def _proper(self, fmaps: Tensor) -> Tensor:
        """Return the leading part of ``fmaps`` after refinement by ZoomOut."""
        config, (one, two) = self.config, self.shapes
        refined = []
        for fmap, a, b in ((fmaps[0], one, two), (fmaps[1], two, one)):
            if config.zoomout_points is None:
                grown, _ = zoomout(fmap, a.basis, b.basis, config.zoomout_size, config.zoomout_step)
            else:
                schedule = sizes(config.map_size, config.zoomout_size, config.zoomout_step)
                rows_a, rows_b = (shape.rows[: config.zoomout_points] for shape in (a, b))
                grown = zoomout_hypotheses(fmap[None], rows_a, rows_b, schedule)[0]
            refined.append(grown[: config.map_size, : config.map_size])
        return torch.stack(refined)

    def _prior_gradient(self, maps: Tensor) -> Tensor:
        config = self.config
        low, high = config.sds_sigma
        drawn = torch.rand(len(maps), config.sds_probes, generator=self.generator)
        sigma = (low + (high - low) * drawn).to(self.place)
        noise = self._noise(len(maps), 1 if config.sds_shared_noise else config.sds_probes)
        return denoiser_gradient(self.denoise, maps.abs(), sigma, noise)

    def _noise(self, items: int, probes: int) -> Tensor:
        size = self.config.map_size
        return torch.randn(items, probes, size, size, generator=self.generator).to(self.place)

    def _fixed_mask(self, prior: Denoise | Prior | None) -> Tensor | None:
        """Return the mask that no step changes; None when there is none or steps make it."""
        kind, size = self.config.mask, self.config.map_size
        if kind == "static":
            if not isinstance(prior, Prior) or "second_moment" not in prior.info:
                raise InputError(
                    "zero_shot.no_second_moment",
                    "The static mask needs the mean squares of the prior's training maps.",
                    "Pass the prior itself, not its denoiser alone, or choose another mask.",
                )
            moment = torch.tensor(prior.info["second_moment"])[:size, :size]
            return static_mask(moment.to(self.place)).expand(2, -1, -1)
        return self._spectral_mask(kind) if kind in ("laplacian", "resolvent") else None

    def _spectral_mask(self, kind: str) -> Tensor:
        make = {"laplacian": laplacian_mask, "resolvent": resolvent_mask}[kind]
        first, second = (shape.basis.evals[: self.config.map_size] for shape in self.shapes)
        return torch.stack([make(first, second), make(second, first)])

    def _surfaces(self) -> list[Surface]:
        """Return one stacked surface where the sizes agree, else both."""
        config = self.config
        k = min(config.network_eigenpairs, *(shape.basis.k for shape in self.shapes))
        points = _n_points(self.shapes, config)
        both = [surface(shape, k, points) for shape in self.shapes]
        framed = [s.gradients is not None for s in both]
        if both[0].evecs.shape == both[1].evecs.shape and len(set(framed)) == 1:
            return [stack_surfaces(both)]
        return both

    def _inputs(self, initial: Tensor | None) -> list[Tensor]:
        config, one = self.config, self.shapes[0]
        coordinates: tuple[Tensor | None, Tensor | None] = (None, None)
        if initial is not None:
            first = canonical(one.positions)[: config.map_size]
            coordinates = (first, initial[0] @ first)
        points = _n_points(self.shapes, config)
        both = [
            input_values(shape, config.input, points, given)
            for shape, given in zip(self.shapes, coordinates, strict=True)
        ]
        return [torch.stack(both)] if len(self.surfaces) == 1 else both


def _denoiser(prior: Denoise | Prior | None, config: ZeroShotConfig) -> Denoise:
    if prior is None:
        if config.needs_prior:
            raise InputError(
                "zero_shot.no_prior",
                f"The mask {config.mask!r} with w_sds {config.w_sds} needs a prior.",
                "Pass one, or set the mask to none or laplacian and w_sds to 0.",
            )
        return lambda x, sigma: x
    return prior.denoise if isinstance(prior, Prior) else prior


def _n_points(shapes: tuple[Prepared, Prepared], config: ZeroShotConfig) -> int | None:
    if config.n_points is None:
        return None
    return min(config.n_points, *(len(shape.samples) for shape in shapes))


def _stacked(
    fmaps: tuple[Tensor, Tensor] | None, config: ZeroShotConfig, place: torch.device
) -> Tensor | None:
    if fmaps is None:
        return None
    size = config.map_size
    if any(fmap.ndim != 2 or min(fmap.shape) < size for fmap in fmaps):
        raise ShapeError(
            "zero_shot.bad_initial_map",
            f"Initial maps of shapes {[tuple(f.shape) for f in fmaps]} are smaller than "
            f"{size} x {size}.",
            "Give fmap_12 and fmap_21 of that size or larger.",
        )
    return torch.stack([fmap[:size, :size].float().to(place) for fmap in fmaps])


def _check_sizes(shapes: tuple[Prepared, Prepared], config: ZeroShotConfig) -> None:
    sampled = config.n_points is not None or config.zoomout_points is not None
    for shape in shapes:
        rows = len(shape.samples) // 2 if sampled else shape.basis.k
        if min(shape.basis.k, rows) < config.zoomout_size:
            raise MeshError(
                "zero_shot.too_small",
                f"{shape.mesh.name} has {shape.basis.k} eigenpairs and {len(shape.samples)} "
                f"samples; maps of size {config.zoomout_size} need as many eigenpairs and twice "
                "as many samples.",
                "Prepare the shape with more of both; very small meshes must be subdivided.",
            )


def sds_loss(
    fmaps: Float[Tensor, "b k2 k1"],
    gradient: Float[Tensor, "b k2 k1"],
    form: SdsForm = "corrected",
    rate: float = 1e-3,
) -> Float[Tensor, " b"]:
    """Return the loss of each map C, whose absolute values the prior knows.

    With g the prior's gradient at |C|, ``corrected`` has the gradient g with respect to |C|, as in
    the paper.  ``released`` is the mean over entries of (|C| - (C - rate g))^2 with the bracket
    constant: its target has the sign of C, so it is (2 C)^2 at negative entries and about
    (rate g)^2 elsewhere, a penalty on negative entries.

    Raises:
        ConfigError: ``zero_shot.unknown_form``.
    """
    if form == "corrected":
        return loss_with_gradient(fmaps.abs(), gradient)
    if form == "released":
        target = fmaps.detach() - rate * gradient
        return ((fmaps.abs() - target) ** 2).mean(dim=(-2, -1))
    raise ConfigError(
        "zero_shot.unknown_form",
        f"Unknown form '{form}' of score distillation.",
        "Known are released and corrected.",
    )
