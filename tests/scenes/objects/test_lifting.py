"""The encoder that guesses: where cameras see, what its tokens hold, what flows make of it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from geo3d.errors import ShapeError
from geo3d.render.cameras import orbit
from geo3d.synth.objects.generate import generate_object
from scenes.objects.embeddings import patchify
from scenes.objects.lifting import (
    LiftingConfig,
    LiftingEncoder,
    azimuth_bins,
    camera_parameters,
    decoded_azimuth,
    project,
)
from scenes.objects.linear_code import LinearCodeConfig, LinearSLatEncoder
from scenes.objects.samplers import SamplerConfig, sample
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.sparse import SparseTensor
from scenes.objects.ss_flow import (
    SparseStructureFlowModel,
    SSFlowConfig,
    around_guess,
    split_guess,
)

SMALL = LiftingConfig(
    size=32,
    widths=(8, 8, 8, 8),
    code=16,
    channels=16,
    resolution=8,
    latent_channels=4,
    grid_widths=(8, 8, 8),
    azimuths=8,
)


@pytest.fixture(scope="module")
def encoder() -> LiftingEncoder:
    torch.manual_seed(0)
    return LiftingEncoder(SMALL)


def test_parameters_project_as_the_camera_does() -> None:
    mesh = generate_object("cup", 0).mesh
    cameras = [orbit(mesh, a, e, up="z", size=64) for a, e in ((0.3, 0.4), (-2.0, 1.2))]
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    for camera in cameras:
        # the view's axis goes through the middle
        pose = camera.c2w.copy()
        pose[:3, 3] = -2.5 * pose[:3, 2]
        moved = type(camera)(pose, 90.0, 90.0, 30.0, 33.0, 64, 64)
        intrinsics = torch.tensor([[90.0, 90.0, 30.0, 33.0]])
        own = camera_parameters(torch.from_numpy(pose)[None].float(), intrinsics, 64)
        where, _ = project(torch.from_numpy(points).float(), own)
        pixels, depth = moved.project(points)
        assert (depth > 0).all()
        assert np.allclose((where[0].numpy() + 1) * 32, pixels, atol=1e-3)


def test_azimuths_survive_their_bins() -> None:
    azimuth = torch.linspace(-math.pi, math.pi, 41)[:-1]
    bins = azimuth_bins(azimuth, 36)
    assert torch.allclose(bins.sum(1), torch.ones(40))
    away = decoded_azimuth((bins + 1e-9).log()) - azimuth
    assert torch.allclose(torch.cos(away), torch.ones(40), atol=1e-4)


def test_tokens_hold_the_guess(encoder: LiftingEncoder) -> None:
    image = Image.fromarray(np.full((20, 20, 3), 90, np.uint8))
    tokens = encoder.encode([image, image])
    assert tokens.shape == (2, SMALL.tokens, 16) and not tokens.requires_grad
    pixels = torch.full((1, 3, 32, 32), 90 / 255)
    guess = encoder.guess(pixels)
    picture, grid = split_guess(tokens[:1], SMALL.guess_channels, SMALL.resolution)
    assert torch.allclose(picture, guess.picture)
    assert torch.allclose(grid[:, 1:], guess.latents)
    assert torch.allclose((grid[:, 0] + 1) / 2, guess.occupancy.sigmoid())


def test_the_true_camera_is_used_where_it_is_told(encoder: LiftingEncoder) -> None:
    pixels = torch.rand(2, 3, 32, 32)
    cameras = torch.tensor([[1.0, 0.5, 0.4, 0.8, 0.5, 0.5]]).expand(2, 6)
    own, told = encoder.guess(pixels), encoder.guess(pixels, cameras, torch.tensor([0.0, 1.0]))
    assert torch.allclose(own.occupancy[0], told.occupancy[0])
    assert not torch.allclose(own.occupancy[1], told.occupancy[1])


def test_further_blocks_change_nothing_until_they_learn(encoder: LiftingEncoder) -> None:
    longer = LiftingEncoder(dataclasses.replace(SMALL, joins=2))
    missing, unexpected = longer.load_state_dict(encoder.state_dict(), strict=False)
    assert missing and not unexpected and all(name.startswith("join.") for name in missing)
    pixels = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(longer(pixels), encoder(pixels))
    awake(longer.join)
    assert not torch.allclose(longer(pixels), encoder(pixels))


def dense_flow() -> SparseStructureFlowModel:
    config = SSFlowConfig(
        resolution=4, in_channels=2, out_channels=2, model_channels=16, cond_channels=16,
        num_blocks=1, num_heads=2, patch_size=2, guess_channels=5, guess_resolution=8,
    )  # fmt: skip
    return SparseStructureFlowModel(config, torch.Generator().manual_seed(0))


def sparse_flow() -> SLatFlowModel:
    config = SLatFlowConfig(
        resolution=16, in_channels=4, out_channels=4, model_channels=16, cond_channels=16,
        num_blocks=1, num_heads=2, patch_size=1, io_block_channels=None, guess_channels=5,
        guess_resolution=8,
    )  # fmt: skip
    return SLatFlowModel(config, torch.Generator().manual_seed(0))


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network with the outputs that begin at zero."""
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return network


@torch.no_grad()
def test_a_flow_takes_the_guess_where_it_belongs() -> None:
    torch.manual_seed(0)
    t, cond = torch.full((1,), 500.0), torch.randn(1, 3 + 160, 16)
    other = cond.clone()
    # channel 2 of the cell (7, 0, 1)
    other.view(1, -1)[0, 3 * 16 + 2 * 512 + 7 * 64 + 1] += 1
    network = awake(dense_flow())
    network.blocks = torch.nn.ModuleList()
    x = torch.randn(1, 2, 4, 4, 4)
    changed = (network(x, t, cond) - network(x, t, other)).abs().amax(dim=1)[0] > 1e-6
    assert changed[2:, :2, :2].all() and changed.sum() == 8
    flow = awake(sparse_flow())
    flow.blocks = torch.nn.ModuleList()
    coords = torch.tensor([[0, 14, 1, 2], [0, 15, 1, 3], [0, 13, 1, 2]], dtype=torch.int32)
    voxels = SparseTensor(torch.randn(3, 4), coords)
    away = (flow(voxels, t, cond).feats - flow(voxels, t, other).feats).abs().amax(1) > 1e-6
    assert away.tolist() == [True, True, False]


def test_around_a_guess_errors_are_taken_for_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    guess, t = torch.tensor(0.7), 0.6
    clean = guess + 0.5 * torch.randn(100_000, generator=generator)
    noise = torch.randn(100_000, generator=generator)
    x = (1 - t) * clean + t * noise
    _, base = around_guess(x, guess.expand(100_000), torch.tensor(1000 * t), 0.5)
    # no line through the states explains the path's velocity better
    rest = noise - clean - base
    assert abs(float(rest.mean())) < 0.01
    assert abs(float((rest * x).mean() - rest.mean() * x.mean())) < 0.01


@torch.no_grad()
def test_a_new_flow_around_a_guess_gives_it_in_one_step() -> None:
    config = dataclasses.replace(dense_flow().config, guess_first=3, guess_error=0.5)
    config = dataclasses.replace(config, in_channels=8, out_channels=8)
    flow = SparseStructureFlowModel(config, torch.Generator().manual_seed(0))
    cond, noise = torch.randn(2, 3 + 160, 16), torch.randn(2, 8, 4, 4, 4)
    made = sample(flow, noise, cond, SamplerConfig(steps=1, rescale_t=1.0, guidance_scale=None)).x
    guess = split_guess(cond, 5, 8)[1]
    assert torch.allclose(made, patchify(guess[:, 3:4], 2), atol=1e-4)
    sparse = dataclasses.replace(sparse_flow().config, guess_first=1, guess_error=0.8)
    voxels = torch.tensor([[0, 14, 1, 2], [1, 13, 5, 2]], dtype=torch.int32)
    start = SparseTensor(torch.randn(2, 4), voxels)
    one = SamplerConfig(steps=1, rescale_t=1.0, guidance_scale=None)
    ends = sample(SLatFlowModel(sparse), start, cond, one).x.feats
    assert torch.allclose(ends[1], guess[1, 1:, 6, 2, 1], atol=1e-4)


def test_a_condition_without_a_guess_is_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        dense_flow()(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1), torch.zeros(1, 30, 16))
    assert caught.value.code == "flow.no_guess"


def test_the_code_keeps_what_varies_most() -> None:
    generator = np.random.default_rng(0)
    basis = generator.normal(size=(2, 6))
    values = generator.normal(size=(500, 2)) * [3.0, 0.5] @ basis + 1
    colors = generator.uniform(-1, 1, (500, 3))
    encoder = LinearSLatEncoder(LinearCodeConfig(9, 5))
    feats = np.concatenate([values, colors], axis=1).astype(np.float32)
    assert encoder.fit([feats[:200], feats[200:]])["kept"] == pytest.approx(1, abs=1e-6)
    coords = torch.zeros(500, 4, dtype=torch.int32)
    coords[:, 1], coords[:, 2] = torch.arange(500) // 30, torch.arange(500) % 30
    z = encoder(SparseTensor(torch.from_numpy(feats), coords)).feats.detach()
    assert torch.allclose(z.mean(0)[:2], torch.zeros(2), atol=1e-4)
    assert float(z[:, 0].std()) > float(z[:, 1].std())
    # distances can be told from the components, colours are there as they are
    again, residual, _, _ = np.linalg.lstsq(z[:, :2].numpy(), values - values.mean(0), rcond=None)
    assert residual.max() < 1e-3 and again.shape == (2, 6)
    slope = np.polyfit(colors[:, 1], z[:, 3].numpy(), 1)[0]
    assert slope == pytest.approx(1 / colors.std(), rel=0.02)
    told = encoder.in_values(z[1:] - z[:-1]).detach().numpy()
    assert np.allclose(told, np.diff(values, axis=0), atol=1e-3)
