"""Layout-guided variational score distillation: one step.

Notation: b (camera, step) pairs averaged in one step; z, t, x_t, tokens as in
`scenes.urban.guidance`; e_p the teacher's guided prediction of the noise, e_q the tracker's, both
seeing the layout through the teacher's ControlNet; g = (1 - abar_t)(e_p - e_q), clipped.

    draws = draw(guidance, config, b, done, generator)
    step = distil(guidance, tracker, rgb, views, draws, config)
    step.loss.backward()                       # gradients in what made rgb; the tracker has its own

Objectives: ``sds`` compares with the noise itself, ``vsd`` with a tracker; each sees the layout or
not.  ``compat`` follows the release in two oddities (specification, section 9): the tracker's
guidance pairs (no text, camera) with (text, no camera), and its loss reuses the ControlNet's
output of the other noise.

Source: Urban Architect, arXiv 2404.06780, section 3.3; pairing as threestudio.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from geo3d.distill.guidance import guided
from geo3d.distill.levels import step_window, stratified_steps
from geo3d.distill.score import loss_with_gradient, require_finite, score_gradient, tracker_loss
from geo3d.errors import ConfigError
from scenes.urban.guidance import Control, Guidance, chunks, draw_noise
from scenes.urban.tracker import Tracker


@dataclass(frozen=True)
class LgvsdConfig:
    """Settings of distillation; the defaults suit a small teacher, those of the preset "published"
    a large one."""

    objective: Literal["sds", "vsd"] = "vsd"
    """Compare the teacher's prediction with the noise, or with a tracker's."""
    use_layout: bool = True
    """Whether teacher and tracker see the layout."""
    pairs: int = 4
    """(camera, step) pairs averaged in one step."""
    guidance_scale: float = 2.0
    """Classifier-free guidance of the teacher."""
    tracker_guidance_scale: float = 1.0
    """Guidance of the tracker towards its camera."""
    tracker: Literal["auto", "low_rank", "copy"] = "auto"
    """Additions to the teacher's attention, or a copy; "auto" copies small teachers."""
    tracker_from: float = 0.5
    """Share of the optimisation that compares with the noise, as sds does, before the tracker."""
    tracker_detail: int = 7
    """Odd number of entries of z: what is coarser than a window of this side is compared with the
    noise, and only finer detail with the tracker; 0 compares all with the tracker, as published.
    A tracker that lags behind the scene drives the colours of areas away (docs/urban.md)."""
    t_range: tuple[float, float] = (0.2, 0.8)
    """Lowest and highest step, as shares of all.  Below, a small teacher takes colours from what it
    is shown, and nothing stops their drift (docs/urban.md)."""
    t_max_end: float | None = None
    """Highest step at the end; None keeps it."""
    anneal_after: float = 0.2
    """Share of the optimisation after which the highest step falls, linearly."""
    grad_clip: float | None = 8.0
    """Largest magnitude of an entry of the gradient."""
    conditioning_scale: float = 1.0
    """Weight of the ControlNet."""
    drop_camera: float = 0.1
    """Share of pairs for which the tracker learns without camera."""
    compat: bool = False
    """Do as the release does where it is odd."""


class Views(NamedTuple):
    """What is known of b renderings."""

    condition: Tensor | None
    """(b, 4, H, W); None when the layout is not used."""
    tokens: Tensor
    """(b, k, d) of the prompts."""
    null: Tensor
    """(b, k, d) of the empty prompt."""
    camera: Tensor
    """(b, 16), see `scenes.urban.tracker.camera_numbers`."""

    def at(self, where: slice) -> Views:
        """Return some of the views."""
        condition = None if self.condition is None else self.condition[where]
        return Views(condition, self.tokens[where], self.null[where], self.camera[where])


@dataclass(frozen=True)
class Draws:
    """All that is random in one step."""

    t: Tensor
    """Step of each pair (b,)."""
    noise: Tensor
    """Noise of the comparison, like z."""
    t_tracker: Tensor
    """Step at which the tracker learns (b,)."""
    noise_tracker: Tensor
    """Noise with which it learns."""
    dropped: Tensor
    """Whether it learns without camera (b,)."""
    encoder_noise: Tensor
    """What latents are sampled with."""

    def at(self, where: slice) -> Draws:
        """Return the draws of some pairs."""
        return Draws(**{name: values[where] for name, values in vars(self).items()})


@dataclass(frozen=True)
class Step:
    """What one step gives."""

    loss: Tensor
    """Its gradient is that of distillation; its value is no measure of progress."""
    tracker_loss: float
    """How well the tracker denoises; 0 without one."""
    gradient_rms: float
    """Root mean square of g."""
    share_clipped: float
    """Share of the entries of g that were clipped."""


def at_share(config: LgvsdConfig, done: float) -> LgvsdConfig:
    """Return the settings that hold when the share ``done`` of the optimisation is over."""
    return replace(config, objective="sds") if done < config.tracker_from else config


def draw(
    guidance: Guidance, config: LgvsdConfig, n: int, done: float, generator: torch.Generator
) -> Draws:
    """Draw the randomness of one step on the CPU.

    Args:
        n: pairs.
        done: share of the optimisation that is over.
        generator: of the CPU.

    Raises:
        ConfigError: ``distill.bad_window``.
    """
    steps, shape = guidance.schedule.steps, (n, *guidance.latent_shape)
    window = step_window(steps, done, config.t_range, config.t_max_end, config.anneal_after)
    draws = Draws(
        t=stratified_steps(n, window, generator),
        noise=draw_noise(shape, generator),
        t_tracker=stratified_steps(n, (0, steps - 1), generator),
        noise_tracker=draw_noise(shape, generator),
        dropped=torch.rand(n, generator=generator) < config.drop_camera,
        encoder_noise=draw_noise(shape, generator),
    )
    return Draws(**{name: values.to(guidance.device) for name, values in vars(draws).items()})


def distil(
    guidance: Guidance,
    tracker: Tracker | None,
    rgb: Tensor,
    views: Views,
    draws: Draws,
    config: LgvsdConfig = LgvsdConfig(),
) -> Step:
    """Compare renderings with the teacher, and let the tracker learn from them.

    Gradients of the tracker are added to its parameters here; those of the renderings follow from
    ``loss.backward()``.

    Args:
        tracker: for the objective ``vsd``.
        rgb: (b, 3, h, w) in [0, 1], with gradients.

    Raises:
        NumericalError: ``distill.not_finite``: go back to the last good state.
        ConfigError: ``distill.no_tracker``, ``guidance.no_controlnet``, ``guidance.no_condition``.
        ShapeError: ``guidance.wrong_condition``.
    """
    require_finite(rgb.detach(), "The rendering")
    return distil_latents(
        guidance, tracker, guidance.encode(rgb, draws.encoder_noise), views, draws, config
    )


def distil_latents(
    guidance: Guidance,
    tracker: Tracker | None,
    z: Tensor,
    views: Views,
    draws: Draws,
    config: LgvsdConfig = LgvsdConfig(),
) -> Step:
    """Do as `distil` with z (b, c, s, s) in place of images."""
    if not config.use_layout:
        views = views._replace(condition=None)
    elif views.condition is None:
        raise ConfigError(
            "guidance.no_condition",
            "The objective follows a layout, but no condition is given.",
            "Give the condition images, or set use_layout to false.",
        )
    if config.objective == "vsd" and tracker is None:
        raise ConfigError(
            "distill.no_tracker", "Variational distillation needs a tracker.", "Make a Tracker."
        )
    tracker = tracker if config.objective == "vsd" else None
    still, gradients, lost = z.detach(), [], 0.0
    for where in chunks(len(z), guidance.savings.chunk):
        part = _Part(guidance, tracker, still[where], views.at(where), draws.at(where))
        gradient, control = _gradient(part, config)
        gradients.append(gradient)
        if tracker is not None:
            lost += _learn(part, control, config, share=len(gradient) / len(z))
    g = torch.cat(gradients)
    clip = config.grad_clip
    return Step(
        loss=loss_with_gradient(z, g).mean(),
        tracker_loss=lost,
        gradient_rms=float(g.square().mean().sqrt()),
        share_clipped=0.0 if clip is None else float((g.abs() >= clip).float().mean()),
    )


@dataclass(frozen=True)
class _Part:
    guidance: Guidance
    tracker: Tracker | None
    z: Tensor
    views: Views
    draws: Draws


@torch.no_grad()
def _gradient(part: _Part, config: LgvsdConfig) -> tuple[Tensor, Control | None]:
    """Return g and what the ControlNet says of the prompts."""
    guidance, draws, n = part.guidance, part.draws, len(part.z)
    schedule = guidance.schedule
    x_t = schedule.perturb(part.z, draws.noise, draws.t)
    has_guidance = config.guidance_scale != 1 or _needs_no_text(config)
    views, x, t = part.views, x_t, draws.t
    if has_guidance:
        views, x, t = _twice(views, x, t)
    control = _control(guidance, views, x, t, config)
    output = schedule.noise_of(guidance.output(x, t, views.tokens, control), x, t)
    if has_guidance:
        output = guided(output[:n], output[n:], config.guidance_scale)
    weight = schedule.weight(draws.t).to(output)
    own = control.last(n) if control is not None else None
    if part.tracker is None:
        return score_gradient(output, draws.noise, weight, config.grad_clip), own
    compared = _tracked(part, (x_t, draws.t), (control, own), config)
    compared = _mixed(compared, draws.noise, config)
    return score_gradient(output, compared, weight, config.grad_clip), own


def _mixed(tracked: Tensor, noise: Tensor, config: LgvsdConfig) -> Tensor:
    """Return what the teacher is compared with: the tracker's detail on top of the noise."""
    side = config.tracker_detail
    if side == 0:
        return tracked
    return tracked - F.avg_pool2d(tracked - noise, side, 1, side // 2, count_include_pad=False)


def _tracked(
    part: _Part,
    noisy: tuple[Tensor, Tensor],
    controls: tuple[Control | None, Control | None],
    config: LgvsdConfig,
) -> Tensor:
    """Return e_q."""
    guidance, tracker, views = part.guidance, part.tracker, part.views
    if tracker is None:
        return part.draws.noise
    scale, (x_t, t) = config.tracker_guidance_scale, noisy
    schedule = tracker.schedule(guidance)
    none = torch.zeros_like(views.camera)

    def ask(tokens: Tensor, camera: Tensor, control: Control | None) -> Tensor:
        output = tracker.output(guidance, (x_t, t), tokens, control, camera)
        return schedule.noise_of(output, x_t, t)

    both, own = controls
    with tracker.applied(guidance.unet):
        if config.compat:
            if scale == 1:
                return ask(views.tokens, none, own)
            first = both.first(len(x_t)) if both is not None else None
            without = ask(views.null, views.camera, first)
            return guided(without, ask(views.tokens, none, own), scale)
        seen = ask(views.tokens, views.camera, own)
        return seen if scale == 1 else guided(ask(views.tokens, none, own), seen, scale)


def _learn(part: _Part, control: Control | None, config: LgvsdConfig, share: float) -> float:
    """Add the tracker's gradients, weighted by ``share``, and return its weighted loss."""
    guidance, tracker, draws, views = part.guidance, part.tracker, part.draws, part.views
    if tracker is None:
        return 0.0
    schedule = tracker.schedule(guidance)
    x_t = schedule.perturb(part.z, draws.noise_tracker, draws.t_tracker)
    target = schedule.target(part.z, draws.noise_tracker, draws.t_tracker)
    if not config.compat:
        control = _control(guidance, views, x_t, draws.t_tracker, config)
    camera = torch.where(draws.dropped[:, None], 0.0, views.camera)
    # The backward pass is inside, because gradient checkpoints run the network again.
    with torch.enable_grad(), tracker.applied(guidance.unet):
        output = tracker.output(guidance, (x_t, draws.t_tracker), views.tokens, control, camera)
        loss = share * tracker_loss(output, target)
        require_finite(loss.detach(), "The loss of the tracker")
        loss.backward()
    for parameter in tracker.parameters():
        if parameter.grad is not None:
            require_finite(parameter.grad, "A gradient of the tracker")
    return float(loss.detach())


def _needs_no_text(config: LgvsdConfig) -> bool:
    """Return whether the tracker is asked without text, which only the release does."""
    return config.compat and config.objective == "vsd" and config.tracker_guidance_scale != 1


def _twice(views: Views, x_t: Tensor, t: Tensor) -> tuple[Views, Tensor, Tensor]:
    """Return all of it twice, first without text."""
    condition = views.condition
    doubled = Views(
        condition=None if condition is None else torch.cat([condition, condition]),
        tokens=torch.cat([views.null, views.tokens]),
        null=torch.cat([views.null, views.null]),
        camera=torch.cat([views.camera, views.camera]),
    )
    return doubled, torch.cat([x_t, x_t]), torch.cat([t, t])


def _control(
    guidance: Guidance, views: Views, x_t: Tensor, t: Tensor, config: LgvsdConfig
) -> Control | None:
    if views.condition is None:
        return None
    return guidance.control(x_t, t, views.tokens, views.condition, config.conditioning_scale)
