from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import urban_teachers

from geo3d.errors import ConfigError, NumericalError
from scenes.urban import tracker as tracker_module
from scenes.urban.guidance import Guidance
from scenes.urban.lgvsd import (
    Draws,
    LgvsdConfig,
    Step,
    Views,
    at_share,
    distil,
    distil_latents,
    draw,
)
from scenes.urban.teachers.savings import Savings
from scenes.urban.tracker import (
    CopiedTracker,
    Tracker,
    attention_layers,
    camera_numbers,
    new_tracker,
)

N = 3
VARIANTS = {
    "sds": LgvsdConfig(objective="sds"),
    "sds_no_layout": LgvsdConfig(objective="sds", use_layout=False),
    "vsd": LgvsdConfig(use_layout=False),
    "lgvsd": LgvsdConfig(),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setting(
    is_latent: bool = False, savings: Savings | None = None
) -> tuple[Guidance, Tracker, Views, torch.Tensor]:
    guidance = Guidance(urban_teachers.parts(is_latent), savings or Savings())
    tracker = Tracker(guidance.unet, seeded(1))
    size = guidance.condition_size
    views = Views(
        torch.rand(N, 4, size, size, generator=seeded(2)) * 2 - 1,
        guidance.tokens(["night", "snow", "snowy night"]),
        guidance.tokens([""] * N),
        torch.randn(N, 16, generator=seeded(3)),
    )
    rgb = torch.rand(N, 3, 8, 8, generator=seeded(4)).requires_grad_()
    return guidance, tracker, views, rgb


def shake(tracker: Tracker) -> None:
    with torch.no_grad():
        for part in tracker.additions.values():
            part.up.copy_(torch.randn(part.up.shape, generator=seeded(9)) * 0.3)


def run(
    config: LgvsdConfig,
    savings: Savings | None = None,
    is_latent: bool = False,
    is_shaken: bool = True,
) -> tuple[Step, torch.Tensor, Tracker]:
    guidance, tracker, views, rgb = setting(is_latent, savings)
    if is_shaken:
        shake(tracker)
    draws = draw(guidance, config, N, 0.0, seeded(5))
    step = distil(guidance, tracker, rgb, views, draws, config)
    step.loss.backward()
    assert rgb.grad is not None
    return step, rgb.grad, tracker


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("is_latent", [False, True], ids=["pixels", "latents"])
def test_every_objective_moves_renderings_and_only_vsd_the_tracker(
    name: str, is_latent: bool
) -> None:
    step, grad, tracker = run(VARIANTS[name], is_latent=is_latent)
    assert torch.isfinite(grad).all() and grad.abs().sum() > 0
    learns = VARIANTS[name].objective == "vsd"
    assert (step.tracker_loss > 0) == learns
    assert all((p.grad is not None) == learns for p in tracker.parameters())


def test_a_tracker_that_is_the_teacher_gives_no_gradient_without_guidance() -> None:
    guidance, tracker, views, rgb = setting()
    with torch.no_grad():  # at first the camera's embedding is random, not 0
        tracker.camera[2].weight.zero_()
        tracker.camera[2].bias.zero_()
    config = LgvsdConfig(guidance_scale=1.0, tracker_detail=0)
    draws = draw(guidance, config, N, 0.0, seeded(5))
    step = distil(guidance, tracker, rgb, views, draws, config)
    assert step.gradient_rms < 1e-6
    shake(tracker)
    assert distil(guidance, tracker, rgb, views, draws, config).gradient_rms > 1e-3


def test_layout_changes_the_gradient_only_where_it_is_used() -> None:
    for config, expects in ((VARIANTS["lgvsd"], True), (VARIANTS["vsd"], False)):
        guidance, tracker, views, rgb = setting()
        draws = draw(guidance, config, N, 0.0, seeded(5))
        assert views.condition is not None
        steps = [
            distil(guidance, tracker, rgb, v, draws, config).gradient_rms
            for v in (views, views._replace(condition=-views.condition))
        ]
        assert (steps[0] != steps[1]) == expects
    with pytest.raises(ConfigError, match=r"guidance.no_condition"):
        given = views._replace(condition=None)
        distil(guidance, tracker, rgb, given, draws, VARIANTS["lgvsd"])
    with pytest.raises(ConfigError, match=r"distill.no_tracker"):
        distil(guidance, None, rgb, views, draws, VARIANTS["vsd"])


@pytest.mark.parametrize(
    "savings", [Savings(chunk=1), Savings(chunk=2), Savings(checkpoint_tracker=True)]
)
def test_saving_memory_changes_nothing(savings: Savings) -> None:
    config = replace(LgvsdConfig(), tracker_guidance_scale=1.5)
    step, grad, tracker = run(config)
    other, other_grad, other_tracker = run(config, savings)
    torch.testing.assert_close(other_grad, grad, atol=1e-6, rtol=1e-4)
    assert other.tracker_loss == pytest.approx(step.tracker_loss, rel=1e-5)
    for a, b in zip(tracker.parameters(), other_tracker.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, atol=1e-6, rtol=1e-3)


def test_the_batch_is_the_mean_of_its_pairs() -> None:
    config = LgvsdConfig()
    guidance, tracker, views, rgb = setting()
    draws = draw(guidance, config, N, 0.0, seeded(5))
    whole = torch.autograd.grad(distil(guidance, tracker, rgb, views, draws, config).loss, rgb)[0]
    for i in range(N):
        one = slice(i, i + 1)
        step = distil(guidance, tracker, rgb[one], views.at(one), draws.at(one), config)
        part = torch.autograd.grad(step.loss, rgb)[0][one]
        torch.testing.assert_close(part / N, whole[one], atol=1e-6, rtol=1e-4)


def test_camera_reaches_the_gradient_unless_as_released() -> None:
    for compat in (False, True):
        config = replace(LgvsdConfig(), compat=compat)
        guidance, tracker, views, rgb = setting()
        draws = draw(guidance, config, N, 0.0, seeded(5))
        rms = [
            distil(guidance, tracker, rgb, v, draws, config).gradient_rms
            for v in (views, views._replace(camera=-views.camera))
        ]
        assert (rms[0] == rms[1]) == compat


def test_the_teacher_is_untouched_outside_the_tracker() -> None:
    guidance, tracker, views, _ = setting()
    shake(tracker)
    x, t = torch.randn(N, 3, 8, 8, generator=seeded()), torch.tensor([5, 50, 500])
    before = guidance.output(x, t, views.tokens)
    names = list(guidance.unet.state_dict())
    with tracker.applied(guidance.unet):
        inside = tracker.output(guidance, (x, t), views.tokens, None, views.camera)
    assert (inside - before).abs().max() > 1e-3
    assert torch.equal(guidance.output(x, t, views.tokens), before)
    assert list(guidance.unet.state_dict()) == names
    assert len(tracker.additions) == len(attention_layers(guidance.unet)) > 0


def losses_of(
    guidance: Guidance, tracker: Tracker, views: Views, rgb: torch.Tensor, steps: int
) -> list[float]:
    """Let a tracker learn from the same renderings, and return its losses."""
    optimiser = torch.optim.AdamW(tracker.parameters(), lr=1e-3 if tracker.unet else 1e-2)
    draws: Draws = draw(guidance, LgvsdConfig(), N, 0.0, seeded(5))
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        losses.append(distil(guidance, tracker, rgb, views, draws).tracker_loss)
        optimiser.step()
    return losses


def test_the_tracker_learns_to_denoise_what_it_sees() -> None:
    losses = losses_of(*setting(), steps=15)
    assert losses[-1] < 0.9 * losses[0]


def test_a_copy_starts_as_the_teacher_and_all_of_it_learns() -> None:
    guidance, _, views, rgb = setting()
    tracker = CopiedTracker(guidance.unet, seeded(1))
    kept = {name: values.clone() for name, values in guidance.unet.state_dict().items()}
    config = LgvsdConfig(guidance_scale=1.0, tracker_detail=0)
    draws = draw(guidance, config, N, 0.0, seeded(5))
    assert distil(guidance, tracker, rgb, views, draws, config).gradient_rms < 1e-6
    still = [name for name, p in tracker.named_parameters() if p.grad is None]
    assert still == []
    losses = losses_of(guidance, tracker, views, rgb, steps=10)
    assert losses[-1] < 0.9 * losses[0]
    for name, values in guidance.unet.state_dict().items():
        assert torch.equal(values, kept[name])


def test_only_small_teachers_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = urban_teachers.parts(False).unet
    assert isinstance(new_tracker("auto", unet, seeded()), CopiedTracker)
    monkeypatch.setattr(tracker_module, "SMALL", 1000)
    assert type(new_tracker("auto", unet, seeded())) is Tracker


def test_only_detail_is_compared_with_the_tracker() -> None:
    guidance, tracker, views, _ = setting()
    shake(tracker)
    z = torch.rand(N, *guidance.latent_shape, generator=seeded(6)) * 2 - 1

    def gradient(config: LgvsdConfig) -> torch.Tensor:
        at = z.clone().requires_grad_()
        config = replace(config, grad_clip=None)
        draws = draw(guidance, config, N, 0.0, seeded(5))
        loss = distil_latents(guidance, tracker, at, views, draws, config).loss
        return torch.autograd.grad(loss, at)[0]

    noise, all_of_it = gradient(VARIANTS["sds"]), gradient(LgvsdConfig(tracker_detail=0))
    side = z.shape[-1]
    # a window that holds the whole image from every entry: only the mean is left to the noise
    wide = gradient(LgvsdConfig(tracker_detail=2 * side - 1))
    mean = wide.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(mean, noise.mean(dim=(2, 3), keepdim=True), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(
        wide - mean, all_of_it - all_of_it.mean(dim=(2, 3), keepdim=True), atol=1e-6, rtol=1e-3
    )
    torch.testing.assert_close(gradient(LgvsdConfig(tracker_detail=1)), noise)


def test_the_tracker_comes_in_late() -> None:
    config = LgvsdConfig()
    assert at_share(config, 0.0).objective == "sds"
    assert at_share(config, config.tracker_from) == config
    published = LgvsdConfig(tracker_from=0.0)
    assert at_share(published, 0.0) == published


def test_what_is_not_finite_raises() -> None:
    guidance, tracker, views, rgb = setting()
    draws = draw(guidance, LgvsdConfig(), N, 0.0, seeded(5))
    with torch.no_grad():
        rgb[0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"distill.not_finite"):
        distil(guidance, tracker, rgb, views, draws)
    with torch.no_grad():
        rgb[0, 0, 0, 0] = 0.5
        next(iter(tracker.additions.values())).up.fill_(float("inf"))
    with pytest.raises(NumericalError, match=r"distill.not_finite"):
        distil(guidance, tracker, rgb, views, draws)
    assert all(p.grad is None for p in tracker.parameters())


def test_cameras_are_told_by_numbers_of_size_one() -> None:
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[:, :3, 3] = torch.tensor([[0.0, 0.0, 300.0], [10.0, 0.0, 500.0]])
    numbers = camera_numbers(c2w, torch.tensor([0.0, 0.0, 400.0]), 100.0)
    assert numbers[0].tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, -1, 0, 0, 0, 1]
    assert numbers.abs().max() <= 1
