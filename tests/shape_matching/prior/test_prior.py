"""Priors on disk and in use; the published network from an imitation of its pickle."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from prior_helpers import NETWORK, random_prior
from torch import nn

from geo3d import checkpoints
from geo3d.convert import convert_file
from geo3d.distill.preconditioning import EDM, IDDPM
from geo3d.errors import CheckpointError, ShapeError
from shape_matching.prior.denoiser import Denoiser, DenoiserConfig
from shape_matching.prior.prior import load_prior, save_prior


@pytest.mark.parametrize("preconditioning", [EDM(0.17), IDDPM(steps=100)])
def test_saved_and_loaded_is_the_same(tmp_path: Path, preconditioning: Any) -> None:
    prior = random_prior(preconditioning=preconditioning)
    path = tmp_path / "p.safetensors"
    digest = save_prior(path, prior, {"note": "for a test"})
    found = load_prior(path)
    assert found.network.config == NETWORK
    assert found.preconditioning == preconditioning
    assert found.info == {"note": "for a test", "sha256": digest}
    x = torch.rand(3, 8, 8)
    assert torch.equal(found.denoise(x, 0.5), prior.denoise(x, 0.5))
    assert not any(p.requires_grad for p in found.network.parameters())


def test_half_precision_halves_the_file_and_hardly_changes_the_result(tmp_path: Path) -> None:
    prior = random_prior(DenoiserConfig(8, 4, 64, 2, 2))
    save_prior(tmp_path / "whole.safetensors", prior)
    save_prior(tmp_path / "half.safetensors", prior, dtype="float16")
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("half", "whole")]
    assert sizes[0] < 0.55 * sizes[1]
    x = torch.rand(4, 8, 8)
    half = load_prior(tmp_path / "half.safetensors")
    assert half.network.pos_embed.dtype == torch.float32
    torch.testing.assert_close(half.denoise(x, 0.3), prior.denoise(x, 0.3), rtol=0, atol=2e-3)


def test_shapes_levels_and_types() -> None:
    prior = random_prior()
    assert prior.size == 8
    x = torch.rand(3, 1, 8, 8)
    expected = prior.denoise(x, 0.4)
    assert expected.shape == x.shape
    assert torch.equal(prior.denoise(x[:, 0], 0.4), expected[:, 0])
    torch.testing.assert_close(prior.denoise(x[0, 0], 0.4), expected[0, 0])
    assert torch.equal(prior.denoise(x, torch.full((3,), 0.4)), expected)
    assert not torch.equal(prior.denoise(x, torch.tensor([0.4, 0.5, 0.6]))[1:], expected[1:])
    double = prior.denoise(x.double().requires_grad_(), 0.4)
    assert double.dtype == torch.float64
    assert not double.requires_grad
    with pytest.raises(ShapeError, match="wrong_size"):
        prior.denoise(torch.rand(2, 9, 9), 0.4)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    for level in (0.1, 0.2):
        save_prior(path, random_prior(preconditioning=EDM(level)))
        assert load_prior(path).preconditioning == EDM(level)
    assert load_prior(path) is load_prior(str(path))


def test_files_that_are_no_prior(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    checkpoints.save(path, {"weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="x_embedder"):
        load_prior(path)
    with pytest.raises(CheckpointError, match=r"checkpoint\.missing"):
        load_prior(tmp_path / "absent.safetensors")
    checkpoints.save(path, {"weight": torch.zeros(2)}, {"prior": {"network": {"size": 8}}})
    with pytest.raises(CheckpointError, match="not_a_prior"):
        load_prior(path)


def test_a_prior_with_a_missing_weight_is_refused(tmp_path: Path) -> None:
    prior = random_prior()
    path = tmp_path / "cut.safetensors"
    save_prior(path, prior)
    whole = checkpoints.load(path)
    tensors = dict(whole.tensors)
    del tensors["blocks.0.attn.proj.bias"]
    checkpoints.save(path, tensors, whole.config)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.attn\.proj\.bias"):
        load_prior(path)


class _Imitation(nn.Module):
    """Stands for a class of the training code, gone when the file is read."""

    def __init__(self, network: Denoiser, **attributes: Any) -> None:
        super().__init__()
        for block in network.blocks:
            block.attn.num_heads = network.config.heads
        self.model = network
        for name, value in attributes.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)


def snapshot(folder: Path, network: Denoiser, **attributes: Any) -> Path:
    """Pickle ``{"ema": module, ...}`` as training snapshots do, from a module that then vanishes.

    The pickle names the module ``vanished`` and, as snapshots of EDM do, wraps the outer object in
    a call of ``torch_utils.persistence._reconstruct_persistent_obj`` with its source as text.
    """
    vanished = types.ModuleType("vanished")
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("code of the file was run")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]

    class Precond(_Imitation):
        def __reduce__(self) -> Any:
            meta = {
                "type": "class",
                "version": 6,
                "module_src": "raise SystemExit('this text must never run')",
                "class_name": "Precond",
                "state": self.__dict__,
            }
            return _reconstruct_persistent_obj, (meta,)

    module = Precond(network, **attributes)
    inner = {type(m) for m in network.modules() if type(m).__module__.startswith("shape_matching")}
    names = {cls: cls.__module__ for cls in inner}
    stand_ins = {
        "vanished": vanished,
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": persistence,
    }
    sys.modules |= stand_ins
    try:
        for cls in inner:
            cls.__module__ = "vanished"
            setattr(vanished, cls.__qualname__, cls)
        data = pickle.dumps({"ema": module, "loss_fn": None, "dataset_kwargs": {"path": "x.npy"}})
    finally:
        for cls, name in names.items():
            cls.__module__ = name
        for name in stand_ins:
            del sys.modules[name]
    path = folder / "network-snapshot.pkl"
    path.write_bytes(data)
    return path


def test_a_published_snapshot_becomes_a_prior(tmp_path: Path) -> None:
    # 3 heads are not what the width suggests: the number comes from the file.
    prior = random_prior(DenoiserConfig(30, 5, 24, 2, 3), IDDPM())
    source = snapshot(tmp_path, prior.network, u=IDDPM().levels(), C_1=0.001, C_2=0.008, M=1000)
    converted = tmp_path / "network.safetensors"
    made = convert_file(source, converted, inert=["*"])
    assert "ema.model.blocks.1.attn.qkv.weight" in made.names
    found = load_prior(converted)
    assert found.network.config == prior.network.config
    assert found.preconditioning == IDDPM()
    x = torch.rand(4, 30, 30)
    assert torch.equal(found.denoise(x, 0.7), prior.denoise(x, 0.7))


def test_an_edm_snapshot_tells_its_sigma_data(tmp_path: Path) -> None:
    prior = random_prior(DenoiserConfig(8, 4, 16, 1, 2))
    source = snapshot(tmp_path, prior.network, sigma_data=0.5, sigma_min=0)
    convert_file(source, tmp_path / "n.safetensors", inert=["*"])
    assert load_prior(tmp_path / "n.safetensors").preconditioning == EDM(0.5)


def test_a_pickle_itself_is_not_read(tmp_path: Path) -> None:
    source = snapshot(tmp_path, random_prior().network, sigma_data=0.5)
    with pytest.raises(CheckpointError, match=r"checkpoint\.foreign"):
        load_prior(source)


def test_foreign_files_without_preconditioning_or_with_two_networks(tmp_path: Path) -> None:
    weights = random_prior().network.state_dict()
    bare = tmp_path / "bare.safetensors"
    checkpoints.save(bare, {f"ema.model.{n}": t for n, t in weights.items()})
    with pytest.raises(CheckpointError, match="no preconditioning"):
        load_prior(bare)
    double = tmp_path / "double.safetensors"
    checkpoints.save(double, {f"{p}.{n}": t for n, t in weights.items() for p in "ab"})
    with pytest.raises(CheckpointError, match="several networks"):
        load_prior(double)
    cut = tmp_path / "cut.safetensors"
    checkpoints.save(cut, {"ema.x_embedder.proj.weight": weights["x_embedder.proj.weight"]})
    with pytest.raises(CheckpointError, match="not understood"):
        load_prior(cut)
