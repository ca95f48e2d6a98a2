"""Steps of distillation worked out by hand, with networks whose output is a sum of what they saw.

The teacher's output is tokens + 10 control, the control 1 per token (times its scale); the
tracker's is tokens + 100 camera + 10 control + a weight that learns.  Tokens: 1 without a prompt,
3 with.  Signal shares of steps 0, 1, 2: 0.75, 0.5, 0.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from geo3d.distill.levels import NoiseSchedule
from geo3d.errors import ConfigError
from scenes.urban.guidance import Control
from scenes.urban.lgvsd import Draws, LgvsdConfig, Step, Views, at_share, distil_latents, draw
from scenes.urban.teachers.savings import Savings

ABAR = torch.tensor([0.75, 0.5, 0.2])
PLAIN = LgvsdConfig(guidance_scale=1.0, tracker_detail=0, grad_clip=None, use_layout=False)
N = 2


def image(values: Tensor) -> Tensor:
    """Return one number per item as images of 2 x 2 pixels."""
    return values.reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)


class Teacher:
    savings = Savings()
    device = torch.device("cpu")
    schedule = NoiseSchedule(ABAR)
    latent_shape = (1, 2, 2)
    unet = None

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []

    def control(
        self, x_t: Tensor, t: Tensor, tokens: Tensor, condition: Tensor, scale: float = 1.0
    ) -> Control:
        self.asked.append((x_t.clone(), t.clone()))
        return Control((), scale * image(tokens[:, 0, 0] * condition[:, 0, 0, 0]))

    def output(self, x_t: Tensor, t: Tensor, tokens: Tensor, control: Control | None) -> Tensor:
        seen = image(tokens[:, 0, 0])
        return seen if control is None else seen + 10 * control.mid


class Tracker(torch.nn.Module):
    unet = None

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.asked: list[tuple[Tensor, Tensor]] = []
        self.is_applied = False

    @contextmanager
    def applied(self, unet: Any) -> Iterator[None]:
        self.is_applied = True
        yield
        self.is_applied = False

    def schedule(self, guidance: Teacher) -> NoiseSchedule:
        return guidance.schedule

    def output(
        self,
        guidance: Teacher,
        noisy: tuple[Tensor, Tensor],
        tokens: Tensor,
        control: Control | None,
        camera: Tensor,
    ) -> Tensor:
        assert self.is_applied
        self.asked.append((noisy[0].clone(), noisy[1].clone()))
        seen = image(tokens[:, 0, 0] + 100 * camera[:, 0]) + self.weight
        return seen if control is None else seen + 10 * control.mid


def views(camera: float = 0.0) -> Views:
    one = torch.ones(N, 1, 1)
    return Views(torch.full((N, 4, 2, 2), 1.0), 3 * one, one, torch.full((N, 16), camera))


def draws(**changes: Tensor) -> Draws:
    zero, steps = torch.zeros(N, 1, 2, 2), torch.tensor([1, 2])
    given = Draws(steps, zero, steps, zero, torch.zeros(N, dtype=torch.bool), zero)
    return replace(given, **changes)


def step(
    config: LgvsdConfig, camera: float = 0.0, **changes: Tensor
) -> tuple[Step, Tensor, Teacher, Tracker]:
    """Return a step from z = 0, its gradient per item (times the batch size), and who was asked."""
    teacher, tracker = Teacher(), Tracker()
    z = torch.zeros(N, 1, 2, 2, requires_grad=True)
    done = distil_latents(teacher, tracker, z, views(camera), draws(**changes), config)  # type: ignore[arg-type]
    done.loss.backward()
    assert z.grad is not None
    return done, N * z.grad, teacher, tracker


def test_guidance_goes_from_no_prompt_to_the_prompt_and_beyond() -> None:
    config = replace(PLAIN, objective="sds", guidance_scale=4.0)
    _, gradient, *_ = step(config)
    # 1 + 4 (3 - 1) = 9, weighted by 1 - abar: 0.5 and 0.8
    torch.testing.assert_close(gradient, image(torch.tensor([4.5, 7.2])))
    _, gradient, *_ = step(replace(config, guidance_scale=1.0))
    torch.testing.assert_close(gradient, image(torch.tensor([1.5, 2.4])))


def test_the_noise_is_subtracted_and_added_where_it_belongs() -> None:
    noise = torch.arange(8.0).reshape(N, 1, 2, 2)
    config = replace(PLAIN, objective="sds", use_layout=True)
    _, gradient, teacher, _ = step(config, noise=noise)
    weight = image(torch.tensor([0.5, 0.8]))
    torch.testing.assert_close(gradient, weight * (3 + 10 * 3 - noise))
    x_t, t = teacher.asked[0]
    torch.testing.assert_close(x_t, weight.sqrt() * noise)
    assert t.tolist() == [1, 2]


def test_the_layout_is_seen_by_both_and_weighted() -> None:
    config = replace(PLAIN, use_layout=True, conditioning_scale=0.5, guidance_scale=2.0)
    done, gradient, teacher, tracker = step(config)
    # teacher: 1 + 5 -> 3 + 15, guided 30; tracker: 3 + 15; the difference 12
    torch.testing.assert_close(gradient, image(torch.tensor([6.0, 9.6])))
    assert done.gradient_rms == pytest.approx(((36 + 92.16) / 2) ** 0.5)
    # then the tracker learns, with a control of its own noisy state and of the prompt alone
    assert [len(x) for x, _ in teacher.asked] == [2 * N, N]
    assert done.tracker_loss == pytest.approx(18.0**2)
    assert tracker.weight.grad is not None and tracker.weight.grad.item() == pytest.approx(36.0)


def test_the_tracker_learns_from_its_own_noise_at_its_own_step() -> None:
    noise = torch.arange(8.0).reshape(N, 1, 2, 2)
    own = torch.tensor([2, 0])
    _, _, _, tracker = step(PLAIN, t_tracker=own, noise_tracker=noise)
    compared, learned = tracker.asked
    assert not compared[0].any() and compared[1].tolist() == [1, 2]
    torch.testing.assert_close(learned[0], image((1 - ABAR[own]).sqrt()) * noise)
    assert learned[1].tolist() == [2, 0]


def test_some_pairs_learn_without_camera_but_all_are_compared_with_it() -> None:
    dropped = torch.tensor([True, False])
    done, gradient, *_ = step(PLAIN, camera=0.01, dropped=dropped)
    # e_p - e_q = 3 - (3 + 1) in both
    torch.testing.assert_close(gradient, image(torch.tensor([-0.5, -0.8])))
    # 3 without the camera, 4 with it; the target is 0
    assert done.tracker_loss == pytest.approx((9 + 16) / 2)


def test_the_share_of_dropped_cameras() -> None:
    def share(config: LgvsdConfig) -> float:
        drawn = draw(Teacher(), config, 4000, 0.0, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        return drawn.dropped.float().mean().item()

    assert share(replace(PLAIN, drop_camera=0.0)) == 0
    assert share(replace(PLAIN, drop_camera=1.0)) == 1
    assert share(PLAIN) == pytest.approx(0.1, abs=0.02)


def test_the_share_of_clipped_entries() -> None:
    # w (3 - noise) = 0.5 (3 - noise) at step 1 and 0.8 (3 - noise) at step 2
    noise = torch.tensor([3.0, 1.0, 5.0, -9.0, 3.0, 3.0, 3.0, 13.0]).reshape(N, 1, 2, 2)
    config = replace(PLAIN, objective="sds", grad_clip=1.0)
    done, gradient, *_ = step(config, noise=noise)
    wanted = torch.tensor([0.0, 1.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0])
    torch.testing.assert_close(gradient.flatten(), wanted)
    assert done.share_clipped == 0.5
    assert done.gradient_rms == pytest.approx(0.5**0.5)
    assert step(replace(config, grad_clip=None), noise=noise)[0].share_clipped == 0


def test_the_tracker_is_guided_towards_its_camera() -> None:
    config = replace(PLAIN, tracker_guidance_scale=3.0)
    _, gradient, *_ = step(config, camera=0.01)
    # without camera 3, with it 4: 3 + 3 (4 - 3) = 6
    torch.testing.assert_close(gradient, image(torch.tensor([0.5 * -3, 0.8 * -3])))


def test_the_release_pairs_the_camera_with_no_prompt() -> None:
    released = replace(PLAIN, compat=True, use_layout=True, tracker_guidance_scale=3.0)
    done, gradient, teacher, _ = step(released, camera=0.01)
    # teacher 3 + 30; tracker from 1 + 1 + 10 (camera, no prompt) to 33 (prompt, no camera)
    torch.testing.assert_close(
        gradient, image((33 - (12 + 3 * (33 - 12))) * torch.tensor([0.5, 0.8]))
    )
    # and the tracker learns with the control of the comparison
    assert len(teacher.asked) == 1
    assert done.tracker_loss == pytest.approx(34.0**2)
    alone = replace(released, tracker_guidance_scale=1.0)
    _, gradient, *_ = step(alone, camera=0.01)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_the_mean_of_a_window_is_compared_with_the_noise() -> None:
    noise = torch.tensor([0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]).reshape(N, 1, 2, 2)
    _, gradient, *_ = step(replace(PLAIN, tracker_detail=3), camera=0.01, noise=noise)
    # a window of 3 holds the whole image: tracker 4 less the mean of 4 - noise, which is 3 and 4
    compared = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(gradient, image((3 - compared) * torch.tensor([0.5, 0.8])))


def test_the_tracker_comes_in_at_its_share_and_not_before() -> None:
    config = LgvsdConfig(tracker_from=0.5)
    assert at_share(config, 0.49).objective == "sds"
    assert at_share(config, 0.5) == config


def test_steps_are_drawn_from_the_window_of_the_moment() -> None:
    class Long(Teacher):
        schedule = NoiseSchedule(torch.linspace(0.99, 0.01, 1000))

    config = LgvsdConfig(t_range=(0.2, 0.8), t_max_end=0.4, anneal_after=0.5)
    for done, highest in ((0.0, 800), (0.5, 800), (0.75, 600), (1.0, 400)):
        drawn = draw(Long(), config, 500, done, torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        assert 200 <= int(drawn.t.min()) <= 202 and highest - 2 <= int(drawn.t.max()) <= highest
        # the tracker learns at every step
        assert int(drawn.t_tracker.min()) <= 1 and int(drawn.t_tracker.max()) >= 997
        assert drawn.noise.shape == drawn.noise_tracker.shape == (500, 1, 2, 2)
        assert not torch.equal(drawn.noise, drawn.noise_tracker)


def test_parts_of_a_batch_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(PLAIN, use_layout=True, guidance_scale=2.0)
    noise = torch.arange(8.0).reshape(N, 1, 2, 2)
    whole, gradient, _, tracker = step(config, camera=0.01, noise_tracker=noise)
    monkeypatch.setattr(Teacher, "savings", Savings(chunk=1))
    parts, same, _, other = step(config, camera=0.01, noise_tracker=noise)
    torch.testing.assert_close(same, gradient)
    assert parts.tracker_loss == pytest.approx(whole.tracker_loss)
    torch.testing.assert_close(other.weight.grad, tracker.weight.grad)


def test_what_is_missing_is_named() -> None:
    teacher: Any = SimpleNamespace(savings=Savings())
    blind = views()._replace(condition=None)
    z = torch.zeros(N, 1, 2, 2)
    with pytest.raises(ConfigError, match=r"guidance.no_condition"):
        distil_latents(teacher, None, z, blind, draws(), LgvsdConfig(objective="sds"))
    with pytest.raises(ConfigError, match=r"distill.no_tracker"):
        distil_latents(teacher, None, z, views(), draws(), LgvsdConfig())
