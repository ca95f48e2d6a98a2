from __future__ import annotations

from pathlib import Path

import pytest
import torch
import urban_teachers

from geo3d.errors import Cancelled, CheckpointError, ConfigError, ShapeError
from scenes.urban.guidance import Control, Guidance, SampleConfig, chunks
from scenes.urban.resample import ResampleConfig, resample
from scenes.urban.styles import load_styles
from scenes.urban.teachers.convert_controlnet import convert_controlnet
from scenes.urban.teachers.files import check_folder
from scenes.urban.teachers.folder import read_teacher
from scenes.urban.teachers.savings import Savings

KINDS = pytest.mark.parametrize("is_latent", [False, True], ids=["pixels", "latents"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditions(guidance: Guidance, n: int = 2) -> torch.Tensor:
    size = guidance.condition_size
    return torch.rand(n, 4, size, size, generator=seeded(5)) * 2 - 1


@KINDS
def test_a_folder_gives_the_same_images_as_its_parts(tmp_path: Path, is_latent: bool) -> None:
    made = Guidance(urban_teachers.parts(is_latent))
    read = Guidance.from_folder(urban_teachers.write(tmp_path, is_latent))
    assert read.is_latent == is_latent
    assert read.image_size == read.condition_size == (16 if is_latent else 8)
    config = SampleConfig(steps=3, guidance_scale=2.0)
    both = [
        g.sample(conditions(g), "snowy night", config, generator=seeded()) for g in (made, read)
    ]
    assert both[0].shape == (2, 3, read.image_size, read.image_size)
    assert both[0].min() >= 0 and both[0].max() <= 1
    torch.testing.assert_close(*both)


def test_images_follow_layout_prompt_and_seed_and_do_not_depend_on_the_batch() -> None:
    guidance = Guidance(urban_teachers.parts())
    config = SampleConfig(steps=2)
    given = conditions(guidance, 3)

    def draw(condition: torch.Tensor, prompt: str, seed: int = 0) -> torch.Tensor:
        return guidance.sample(condition, prompt, config, generator=seeded(seed))

    base = draw(given, "night")
    torch.testing.assert_close(draw(given[1:2], "night")[0], base[1], atol=1e-5, rtol=1e-4)
    for other in (draw(given.flip(0), "night"), draw(given, "snow"), draw(given, "night", 1)):
        assert (other - base).abs().max() > 1e-4
    few = Guidance(urban_teachers.parts(), Savings(chunk=1, slice_attention=True))
    alike = few.sample(given, "night", config, generator=seeded())
    torch.testing.assert_close(alike, base, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("sees_layout", [False, True])
def test_sampling_by_hand(scale: float, sees_layout: bool) -> None:
    guidance = Guidance(urban_teachers.parts())
    given = conditions(guidance) if sees_layout else None
    tokens, null = guidance.tokens(["night", "snow"]), guidance.tokens(["", ""])
    levels = guidance.schedule
    z = torch.randn(1, *guidance.latent_shape, generator=seeded()).expand(2, -1, -1, -1)
    assert levels.prediction == "v_prediction"
    steps = guidance.timesteps(4)
    assert steps == [999, 749, 499, 249]

    def asked(said: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        control = None if given is None else guidance.control(z, t, said, given, 0.5)
        return guidance.output(z, t, said, control)

    with torch.no_grad():
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            t = torch.full((2,), step)
            output = asked(tokens, t)
            if scale != 1:
                without = asked(null, t)
                output = without + scale * (output - without)
            noise = levels.noise_of(output, z, t)
            alpha, sigma = levels.scales(t, z)
            clean = alpha * z - sigma * output
            # behind the last step there is no noise left
            z = clean if following is None else levels.perturb(clean, noise, t * 0 + following)
        wanted = (z / 2 + 0.5).clamp(0, 1)
    config = SampleConfig(4, scale, conditioning_scale=0.5)
    found = guidance.sample(given, tokens, config, generator=seeded())
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


def test_sizes_follow_from_the_networks() -> None:
    latents = Guidance(urban_teachers.parts(True))
    assert latents.latent_shape == (4, 8, 8) and latents.factor == 2
    pixels = Guidance(urban_teachers.parts())
    assert pixels.latent_shape == (3, 8, 8) and pixels.factor == 1
    made = urban_teachers.parts(True)
    blind = Guidance(type(made)(made.unet, None, made.vae, made.scheduler, None))
    assert blind.condition_size == blind.image_size == 16
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    scale = latents.vae.config["scaling_factor"]
    with torch.no_grad():
        wanted = (latents.vae.decode(z / scale).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(latents.decode(z), wanted)
        rgb = torch.rand(1, 3, 16, 16, generator=seeded())
        found = latents.vae.encode(2 * rgb - 1).latent_dist
        noise = torch.full_like(found.mean, 0.5)
        torch.testing.assert_close(latents.encode(rgb), scale * found.mean)
        drawn = scale * (found.mean + 0.5 * found.std)
        torch.testing.assert_close(latents.encode(rgb, noise), drawn)


def test_batches_are_cut_into_parts() -> None:
    assert chunks(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert chunks(5, 0) == [slice(0, 5)] and chunks(0, 0) == []


def test_parts_of_a_control_are_those_of_its_views() -> None:
    rows = torch.arange(3.0)
    control = Control((rows, 10 * rows), 100 * rows)
    assert control.first(1).mid.tolist() == [0] and control.last(2).mid.tolist() == [100, 200]
    assert [part.tolist() for part in control.last(1).down] == [[2], [20]]
    assert [part.tolist() for part in control.first(2).down] == [[0, 1], [0, 10]]


def test_the_first_step_of_zero_terminal_signal_is_the_last_of_the_schedule() -> None:
    guidance = Guidance(urban_teachers.parts())
    assert guidance.timesteps(4)[0] == 999
    assert float(guidance.schedule.abar[-1]) == 0
    assert Guidance(urban_teachers.parts(scheduler=urban_teachers.NOISE)).timesteps(4)[0] < 999
    bad = {**urban_teachers.VELOCITY, "prediction_type": "epsilon"}
    with pytest.raises(ConfigError, match=r"diffusion.bad_schedule"):
        Guidance(urban_teachers.parts(scheduler=bad))
    with pytest.raises(ConfigError, match=r"guidance.bad_steps"):
        guidance.timesteps(0)


def test_sampling_can_be_cancelled_and_reports_every_step() -> None:
    guidance, seen = Guidance(urban_teachers.parts()), []

    def listen(event: object) -> None:
        seen.append(event)
        if len(seen) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        guidance.sample(None, ["night"], SampleConfig(steps=5), generator=seeded(), progress=listen)
    assert len(seen) == 2


def test_half_precision_stays_close() -> None:
    given = conditions(Guidance(urban_teachers.parts()))
    images = [
        Guidance(urban_teachers.parts(), Savings(precision=p)).sample(
            given, "night", SampleConfig(steps=2), generator=seeded()
        )
        for p in ("float32", "bfloat16")
    ]
    assert images[1].dtype == torch.float32
    assert 0 < (images[0] - images[1]).abs().max() < 0.1
    with pytest.raises(ConfigError, match=r"guidance.unknown_precision"):
        Guidance(urban_teachers.parts(), Savings(precision="int8"))  # type: ignore[arg-type]


@KINDS
def test_encoding_carries_gradients_to_any_size(is_latent: bool) -> None:
    guidance = Guidance(urban_teachers.parts(is_latent))
    for size in (5, 8, 16, 32):
        rgb = torch.rand(1, 3, size, size, generator=seeded()).requires_grad_()
        z = guidance.encode(rgb, torch.zeros(1, *guidance.latent_shape))
        assert z.shape == (1, *guidance.latent_shape)
        z.square().sum().backward()
        assert rgb.grad is not None and rgb.grad.abs().sum() > 0
    if not is_latent:
        rgb = torch.rand(1, 3, 8, 8, generator=seeded())
        torch.testing.assert_close(guidance.decode(guidance.encode(rgb)), rgb)


def test_wrong_conditions_and_missing_parts_are_named() -> None:
    made = urban_teachers.parts()
    guidance = Guidance(made)
    with pytest.raises(ShapeError, match=r"guidance.wrong_condition"):
        guidance.sample(torch.zeros(1, 4, 16, 16), "", generator=seeded())
    blind = Guidance(type(made)(made.unet, None, None, made.scheduler, None))
    with pytest.raises(ConfigError, match=r"guidance.no_prompts"):
        blind.tokens("night")
    with pytest.raises(ConfigError, match=r"guidance.no_controlnet"):
        tokens = torch.zeros(1, 2, urban_teachers.WIDTH)
        config = SampleConfig(2, guidance_scale=1)
        blind.sample(torch.zeros(1, 4, 8, 8), tokens, config, generator=seeded())


@pytest.mark.parametrize("name", ["unet/model.py", "x.bin", "vae/a.pt", "b.PKL", "c.ckpt"])
def test_folders_with_code_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"teacher.unsafe_file"):
        read_teacher(tmp_path)


def test_links_and_holes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"teacher.no_folder"):
        check_folder(tmp_path / "none")
    folder = urban_teachers.write(tmp_path / "teacher")
    (folder / "unet" / "away").symlink_to("/etc/hosts")
    with pytest.raises(CheckpointError, match=r"teacher.link"):
        read_teacher(folder)
    (folder / "unet" / "away").unlink()
    (folder / "scheduler" / "scheduler_config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"teacher.bad_part"):
        read_teacher(folder)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"teacher.missing_part"):
        read_teacher(folder)


def test_damaged_and_foreign_weights_are_named(tmp_path: Path) -> None:
    folder = urban_teachers.write(tmp_path / "a")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:2000])
    with pytest.raises(CheckpointError, match=r"checkpoint.damaged"):
        read_teacher(folder)
    weights.write_bytes(whole)
    other = urban_teachers.write(tmp_path / "b", is_latent=True)
    with pytest.raises(CheckpointError, match=r"teacher.wrong_controlnet"):
        read_teacher(folder, other / "controlnet")


def test_a_published_controlnet_is_converted_without_running_it(tmp_path: Path) -> None:
    folder = urban_teachers.write(tmp_path / "teacher", is_latent=True)
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(str(folder / "unet"))
    control = ControlNetModel.from_unet(unet, conditioning_channels=4)
    file = tmp_path / "published.pth"
    torch.save({"state_dict": control.state_dict(), "step": 3}, file)
    out = convert_controlnet(file, folder, tmp_path / "converted")
    read = read_teacher(folder, out).controlnet
    for name, value in control.state_dict().items():
        assert torch.equal(read.state_dict()[name], value), name
    torch.save({"state_dict": {"a": torch.zeros(2)}}, file)
    with pytest.raises(CheckpointError, match=r"teacher.wrong_controlnet"):
        convert_controlnet(file, folder, tmp_path / "bad")


def test_styles_are_found_by_words(tmp_path: Path) -> None:
    urban_teachers.save_styles(tmp_path, urban_teachers.styles())
    styles = load_styles(tmp_path)
    assert styles.named_in("A Snowy street, dark.") == ("night", "snow")
    assert torch.equal(styles.tokens("night"), torch.cat([styles.blocks["night"], styles.null[:1]]))
    assert torch.equal(styles.tokens(""), styles.null)
    with pytest.raises(ConfigError, match=r"styles.unknown"):
        styles.tokens("knightly")
    with pytest.raises(ConfigError, match=r"styles.too_many"):
        type(styles)(styles.words, styles.blocks, 1).tokens("snow at night")
    (tmp_path / "styles.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"styles.bad_file"):
        load_styles(tmp_path)


@KINDS
def test_refinement_changes_more_with_more_strength(is_latent: bool) -> None:
    guidance = Guidance(urban_teachers.parts(is_latent, urban_teachers.NOISE))
    rgb = torch.rand(2, 3, 16, 16, generator=seeded())
    tokens = guidance.tokens(["night", "snow"])
    views = (conditions(guidance), tokens, guidance.tokens(["", ""]))
    plain = guidance.decode(guidance.encode(rgb).detach())
    changes = []
    for strength in (0.1, 0.9):
        config = ResampleConfig(SampleConfig(steps=10), strength, 1)
        out = resample(guidance, rgb, views, config, generator=seeded())
        changes.append(float((out - plain).detach().abs().mean()))
    assert 0 < changes[0] < changes[1]
    with pytest.raises(ConfigError, match=r"resample.bad_strength"):
        bad = ResampleConfig(SampleConfig(steps=10), 0.01)
        resample(guidance, rgb, views, bad, generator=seeded())
