"""The latent flow and the decoders: invariances, precision, PLY files and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from geo3d.errors import ConfigError, ShapeError
from scenes.objects.attention import plain_kernels
from scenes.objects.decoders import (
    SLatDecoderConfig,
    SLatGaussianDecoder,
    SLatMeshDecoder,
    SLatRadianceFieldDecoder,
)
from scenes.objects.gaussians import (
    GaussianConfig,
    Gaussians,
    hammersley,
)
from scenes.objects.precision import set_torso
from scenes.objects.slat_flow import SLatFlowConfig, SLatFlowModel
from scenes.objects.sparse import SparseTensor, join_items

SMALL = {"model_channels": 32, "num_blocks": 2, "num_heads": 2, "resolution": 16}


def latents(items: int = 3, seed: int = 0) -> SparseTensor:
    """Return random latents; the second item is empty."""
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(items, 5, 5, 5, generator=generator) < 0.3
    active[1:2] = False
    coords = active.nonzero().int()
    return SparseTensor(torch.randn(len(coords), 8, generator=generator), coords, items)


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def flow(**settings: object) -> SLatFlowModel:
    config = SLatFlowConfig(
        **{**SMALL, "cond_channels": 12, "io_block_channels": (16,), **settings}  # pyright: ignore[reportArgumentType]
    )
    network = randomised(SLatFlowModel(config, torch.Generator().manual_seed(0)))
    assert isinstance(network, SLatFlowModel)
    return network


def conditions(items: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(items, generator=generator) * 1000, torch.randn(
        items, 7, 12, generator=generator
    )


@torch.no_grad()
def test_a_batch_equals_its_items() -> None:
    network, x, (t, cond) = flow(), latents(), conditions()
    together = network(x, t, cond)
    apart = [network(item, t[i : i + 1], cond[i : i + 1]) for i, item in enumerate(x.items())]
    torch.testing.assert_close(together.feats, join_items(apart).feats, rtol=1e-5, atol=1e-5)
    assert together.batch_size == 3


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"share_mod": True},
        {"io_block_channels": (8, 16), "patch_size": 4},
        {"pe_mode": "rope"},
        {"qk_rms_norm_cross": True},
        {"use_skip_connection": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_the_published_code_cannot_do_works(settings: dict[str, object]) -> None:
    network, x, (t, cond) = flow(**settings), latents(), conditions()
    out = network(x, t, cond)
    assert out.feats.shape == x.feats.shape and out.feats.isfinite().all()
    assert not torch.allclose(out.feats, network(x, t, cond.flip(0)).feats)


@torch.no_grad()
def test_a_new_network_says_zero_and_a_torso_may_be_half() -> None:
    config = SLatFlowConfig(**SMALL, cond_channels=12, io_block_channels=(16,))  # pyright: ignore[reportArgumentType]
    x, (t, cond) = latents(), conditions()
    assert SLatFlowModel(config)(x, t, cond).feats.eq(0).all()
    network = flow()
    full = network(x, t, cond).feats
    half = set_torso(network, torch.bfloat16)(x, t, cond).feats
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


def test_recomputed_blocks_give_the_same_gradients() -> None:
    x, (t, cond) = latents(), conditions()
    gradients = []
    for recompute in (False, True):
        network = flow(use_checkpoint=recompute)
        network(x, t, cond).feats.square().sum().backward()
        gradients.append(network.input_layer.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_directional_derivative_in_state_and_time() -> None:
    network, x, (t, cond) = flow().double(), latents(), conditions()
    x, t, cond = x.to(torch.float64), t.double(), cond.double()
    direction = torch.randn(x.feats.shape, dtype=torch.float64)

    def velocity(feats: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return network(x.replace(feats), times, cond).feats

    step = 1e-5
    with plain_kernels():
        slope = torch.func.jvp(velocity, (x.feats, t), (direction, torch.ones_like(t)))[1]
        ahead, behind = (
            velocity(x.feats + sign * step * direction, t + sign * step) for sign in (1, -1)
        )
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-5)


def test_wrong_inputs_of_the_flow_are_refused() -> None:
    x, (t, cond) = latents(), conditions()
    with pytest.raises(ShapeError) as caught:
        flow()(x, t[:2], cond)
    assert caught.value.code == "slat_flow.wrong_input"
    with pytest.raises(ConfigError) as caught:
        SLatFlowConfig(patch_size=4)
    assert caught.value.code == "config.bad_value"


@torch.no_grad()
@pytest.mark.parametrize("attn_mode", ["full", "swin"])
def test_decoded_items_are_independent(attn_mode: str) -> None:
    config = SLatDecoderConfig(**SMALL, attn_mode=attn_mode, window_size=4)  # pyright: ignore[reportArgumentType]
    x = latents()
    for kind, field in ((SLatGaussianDecoder, "xyz"), (SLatRadianceFieldDecoder, "trivec")):
        network = randomised(kind(config))
        together = network(x)
        for ours, item in zip(together, x.items(), strict=True):
            alone = network(item)[0]
            torch.testing.assert_close(getattr(ours, field), getattr(alone, field))


@torch.no_grad()
def test_meshes_of_a_batch_with_an_empty_item() -> None:
    config = SLatDecoderConfig(
        resolution=8,
        model_channels=256,
        num_blocks=1,
        num_heads=4,
        mlp_ratio=1,
        representation_config={"use_color": True},
    )
    network = SLatMeshDecoder(config)
    randomised(network)
    meshes = network(latents())
    assert [len(mesh.faces) > 0 for mesh in meshes] == [True, False, True]
    # The outermost points may move out by half a cube.
    assert meshes[0].vertices.abs().max() <= 0.5 + 0.5 / network.mesh_resolution


def test_gaussians_start_as_intended() -> None:
    config = GaussianConfig(num_gaussians=4)
    zeros = Gaussians(
        torch.full((4, 3), 0.5), torch.zeros(4, 1, 3), torch.zeros(4, 3), torch.zeros(4, 4),
        torch.zeros(4, 1), config,
    )  # fmt: skip
    assert zeros.xyz.eq(0).all() and zeros.colors.eq(0.5).all()
    torch.testing.assert_close(zeros.opacity, torch.full((4, 1), 0.1))
    torch.testing.assert_close(
        zeros.scaling, torch.full((4, 3), math.hypot(0.004, 0.0009)), rtol=1e-5, atol=0
    )
    assert zeros.rotation.tolist() == [[1, 0, 0, 0]] * 4
    expected = zeros.scaling[0, 0] ** 2 * torch.tensor([1.0, 0, 0, 1, 0, 1])
    torch.testing.assert_close(zeros.covariance()[0], expected)
    assert hammersley(3, 4) == (0.75, 0.75, pytest.approx(1 / 9))


def test_unknown_settings_of_decoders_are_refused() -> None:
    for build in (
        lambda: SLatDecoderConfig(attn_mode="shift_order"),  # pyright: ignore[reportArgumentType]
        lambda: SLatMeshDecoder(SLatDecoderConfig(model_channels=100, num_heads=2)),
    ):
        with pytest.raises(ConfigError) as caught:
            build()
        assert caught.value.code == "config.bad_value"
    with pytest.raises(ConfigError) as caught:
        GaussianConfig(scaling_activation="relu")  # pyright: ignore[reportArgumentType]
    assert caught.value.code == "config.bad_value"
