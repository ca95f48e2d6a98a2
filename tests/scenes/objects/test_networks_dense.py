"""The dense networks, the torso's precision, encoders and model files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from object_pipelines import ENCODER, cut_out_image

from geo3d.errors import CheckpointError, ConfigError, ShapeError
from scenes.objects.attention import plain_kernels
from scenes.objects.condition import DinoEncoder, SmallEncoderConfig, SmallImageEncoder
from scenes.objects.models import build, describe, load_model, save_model
from scenes.objects.precision import default_torso, halved_copy, set_torso, torso_dtype
from scenes.objects.ss_flow import SparseStructureFlowModel, SSFlowConfig
from scenes.objects.ss_vae import (
    Posterior,
    SparseStructureDecoder,
    SparseStructureEncoder,
    SSDecoderConfig,
    SSEncoderConfig,
    active_voxels,
)


def flow(**changes: Any) -> SparseStructureFlowModel:
    """Return a small network whose output is not zero."""
    settings: dict[str, Any] = {
        "resolution": 4,
        "in_channels": 2,
        "out_channels": 2,
        "model_channels": 16,
        "cond_channels": 8,
        "num_blocks": 2,
        "num_heads": 2,
        **changes,
    }
    generator = torch.Generator().manual_seed(0)
    network = SparseStructureFlowModel(SSFlowConfig(**settings), generator)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TIMES = torch.tensor([300.0, 700.0])


def test_a_fresh_flow_is_zero_and_reproducible() -> None:
    networks = [
        SparseStructureFlowModel(flow().config, torch.Generator().manual_seed(1)) for _ in range(2)
    ]
    x, cond = drawn(2, 2, 4, 4, 4), drawn(2, 3, 8)
    assert networks[0](x, TIMES, cond).abs().max() == 0
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_items_of_a_batch_do_not_mix() -> None:
    network, x, cond = flow(), drawn(2, 2, 4, 4, 4), drawn(2, 3, 8)
    both = network(x, TIMES, cond)
    torch.testing.assert_close(network(x[1:], TIMES[1:], cond[1:]), both[1:])


@pytest.mark.parametrize("changes", [{"pe_mode": "rope"}, {"share_mod": True}, {"patch_size": 2}])
def test_variants_run_and_differ_by_place(changes: dict[str, Any]) -> None:
    network, x, cond = flow(**changes), drawn(2, 2, 4, 4, 4), drawn(2, 3, 8)
    out = network(x, TIMES, cond)
    assert out.shape == x.shape
    moved = network(x.flip(2), TIMES, cond).flip(2)
    assert not torch.allclose(out, moved, atol=1e-4)
    assert ("pos_emb" in network.state_dict()) == (changes.get("pe_mode") != "rope")


def test_checkpointing_changes_no_gradient() -> None:
    x, cond, gradients = drawn(2, 2, 4, 4, 4), drawn(2, 3, 8), []
    for use in (False, True):
        network = flow(use_checkpoint=use)
        network(x, TIMES, cond).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_the_derivative_along_a_path_in_float64() -> None:
    network = flow().double()
    x, v, cond = (
        drawn(2, 2, 4, 4, 4).double(),
        drawn(2, 2, 4, 4, 4, seed=1).double(),
        drawn(2, 3, 8),
    )
    cond, t, one = cond.double(), TIMES.double(), torch.ones(2).double()

    def along(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return network(x, t, cond)

    with plain_kernels():
        derivative = torch.func.jvp(along, (x, t), (v, one))[1]
    h = 1e-6
    numeric = (along(x + h * v, t + h) - along(x - h * v, t - h)) / (2 * h)
    torch.testing.assert_close(derivative, numeric, rtol=1e-4, atol=1e-6)


def test_the_autoencoder_mirrors_itself() -> None:
    torch.manual_seed(0)
    decoder = SparseStructureDecoder(
        SSDecoderConfig(latent_channels=2, channels=(16, 8), norm_type="layer")
    )
    encoder = SparseStructureEncoder(SSEncoderConfig(latent_channels=2, channels=(8, 16)))
    posterior = encoder((drawn(1, 1, 8, 8, 8) > 1).float())
    assert posterior.mean.shape == posterior.logvar.shape == (1, 2, 4, 4, 4)
    logits = decoder(posterior.mean)
    assert logits.shape == (1, 1, 8, 8, 8)
    logits.sum().backward()
    grouped = SparseStructureDecoder(
        SSDecoderConfig(latent_channels=2, channels=(32,), norm_type="group")
    )
    assert grouped(drawn(1, 2, 4, 4, 4)).shape == (1, 1, 4, 4, 4)


def test_sampling_a_posterior() -> None:
    posterior = Posterior(torch.full((1, 1, 20, 20, 20), 3.0), torch.full((1, 1, 20, 20, 20), -2.0))
    found = posterior.sample(torch.Generator().manual_seed(0))
    assert found.mean().item() == pytest.approx(3, abs=0.02)
    assert found.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.03)


def test_active_voxels_by_hand() -> None:
    logits = torch.full((2, 1, 2, 2, 2), -1.0)
    logits[1, 0, 1, 0, 1] = 0.5
    logits[0, 0, 0, 1, 0] = 0.0
    assert active_voxels(logits).tolist() == [[1, 1, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_only_the_torso_is_halved(dtype: torch.dtype) -> None:
    network = flow(qk_rms_norm=True)
    half = halved_copy(network, dtype)
    halved = {n for n, p in half.named_parameters() if p.dtype == dtype}
    assert halved == {
        n for n, _ in network.named_parameters() if n.startswith("blocks.") and "norm" not in n
    }
    assert torso_dtype(half) == dtype and torso_dtype(network) == torch.float32
    x, cond = drawn(2, 2, 4, 4, 4), drawn(2, 3, 8)
    out, expected = half(x, TIMES, cond), network(x, TIMES, cond)
    assert out.dtype == torch.float32
    assert 0 < (out - expected).norm() / expected.norm() < 0.02
    assert default_torso(torch.device("cpu")) == torch.float32


def test_the_small_encoder_tells_images_apart() -> None:
    torch.manual_seed(0)
    encoder = SmallImageEncoder(ENCODER)
    tokens = encoder.encode([cut_out_image(), cut_out_image((0, 200, 0))])
    assert tokens.shape == (2, ENCODER.tokens, encoder.channels)
    assert (tokens[0] - tokens[1]).abs().max() > 0.01
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 4), rtol=0, atol=1e-5)


def test_models_come_back_from_files(tmp_path: Path) -> None:
    network = flow(share_mod=True)
    save_model(network, tmp_path / "flow_v1.5")
    again = load_model(tmp_path / "flow_v1.5")
    assert describe(again) == describe(network)
    x, cond = drawn(2, 2, 4, 4, 4), drawn(2, 3, 8)
    assert torch.equal(again(x, TIMES, cond), network(x, TIMES, cond))
    assert torso_dtype(load_model(tmp_path / "flow_v1.5", torso=torch.bfloat16)) == torch.bfloat16


def test_what_a_published_file_leaves_unsaid() -> None:
    network = build(
        "SparseStructureFlowModel",
        {"resolution": 4, "model_channels": 128, "cond_channels": 8, "num_blocks": 1},
    )
    assert isinstance(network, SparseStructureFlowModel)
    config = network.config
    assert (config.heads, config.patch_size, config.qk_rms_norm) == (2, 2, False)


def test_mistakes_are_named(tmp_path: Path) -> None:
    cases: list[tuple[str, Any]] = [
        ("object_model.unknown", lambda: build("Unet", {})),
        ("object_model.bad_settings", lambda: build("SparseStructureFlowModel", {"depth": 3})),
        ("object_model.missing", lambda: load_model(tmp_path / "x")),
        ("condition.no_encoder", lambda: DinoEncoder(tmp_path)),
    ]
    for code, call in cases:
        with pytest.raises(CheckpointError) as error:
            call()
        assert error.value.code == code
    for code, call in [
        ("config.bad_value", lambda: SSFlowConfig(resolution=5, patch_size=2)),
        ("precision.unknown", lambda: set_torso(flow(), torch.int8)),
        ("config.bad_value", lambda: SmallEncoderConfig(size=10, patch=3)),
    ]:
        with pytest.raises(ConfigError) as wrong:
            call()
        assert wrong.value.code == code
    with pytest.raises(ShapeError) as grid:
        flow()(drawn(1, 2, 5, 5, 5), TIMES[:1], drawn(1, 3, 8))
    assert grid.value.code == "ss_flow.wrong_grid"
