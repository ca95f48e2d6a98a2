"""Two processes train what one trains (needs Accelerate)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distill_helpers import settings
from prior_helpers import NETWORK, write_maps

from geo3d import checkpoints
from geo3d.config import config_from_dict, dump_config
from geo3d.work.training import CHECKPOINT
from scenes.objects.train_config import DistillConfig
from scenes.objects.training import train
from shape_matching.prior.training import PriorTrainingConfig, train_prior

SCRIPT = """
import sys
from pathlib import Path
from geo3d.errors import Cancelled
from geo3d.config import load_config
from scenes.objects.train_config import DistillConfig
from scenes.objects.training import train
from shape_matching.prior.training import PriorTrainingConfig, train_prior
def stop(event):
    if event["step"] == int(sys.argv[3]):
        raise Cancelled()
try:
    train(load_config(DistillConfig, sys.argv[1]), Path(sys.argv[2]), device="cpu", progress=stop)
except Cancelled:
    pass
"""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs Accelerate"),
]


def in_two_processes(
    folder: Path, config: Any, out: Path, stop: int = -1, script: str = SCRIPT
) -> None:
    """Train in two processes, up to step ``stop``."""
    (folder / "config.yaml").write_text(dump_config(config), "utf-8")
    (folder / "script.py").write_text(script, "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--standalone", str(folder / "script.py")]
    command += [str(folder / "config.yaml"), str(out), str(stop)]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        ["env", f"PYTHONPATH={root}:{':'.join(sys.path)}", "OMP_NUM_THREADS=1", *command],
        cwd=root, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def few_steps(folder: Path, kind: str, **changes: Any) -> DistillConfig:
    # plain gradient descent would do; AdamW makes large steps of rounding in tiny gradients
    own = {"learning_rate": 1e-5, "average_rates": [0.9]}
    values = settings(folder, kind, **{"split": 1, "steps": 3, "optimiser": own, **changes})
    return config_from_dict(DistillConfig, values)


def assert_close(a: Path, b: Path) -> None:
    one, two = (checkpoints.load(f / CHECKPOINT).tensors for f in (a, b))
    assert one.keys() == two.keys()
    torch.testing.assert_close(one["clipper.norms"], two["clipper.norms"], rtol=1e-4, atol=1e-7)
    for name in (n for n in one if n.startswith("masters.weights.")):
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=7e-5)


@pytest.mark.parametrize("kind", ["velocity", "distribution"])
def test_two_processes_train_what_one_trains(kind: str, tmp_path: Path) -> None:
    objective = {"kind": kind, "guidance_scale": 3.0, "tracker_updates": 1}
    config = few_steps(tmp_path, "dense", objective=objective)
    in_two_processes(tmp_path, config, tmp_path / "two")
    train(config, tmp_path / "one", device="cpu")
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    ("latents", "objective"),
    [
        ("dense", {"kind": "velocity", "guidance_scale": 3.0, "distillation_weight": 1.0}),
        ("sparse", {"kind": "velocity", "guidance_scale": 3.0}),
        ("dense", {"kind": "eulerian"}),
    ],
    ids=["dense", "sparse", "two times"],
)
def test_shards_train_what_one_process_trains(
    latents: str, objective: dict[str, Any], tmp_path: Path
) -> None:
    # Losses of sparse latents are means over voxels: with one item per part, both weigh alike.
    batch = 4 if latents == "dense" else 2
    config = few_steps(tmp_path, latents, objective=objective, shard=True, split=2, batch=batch)
    in_two_processes(tmp_path, config, tmp_path / "two")
    train(config, tmp_path / "one", device="cpu")
    assert_close(tmp_path / "one", tmp_path / "two")
    stem = "student_1step" if objective["kind"] == "eulerian" else "student"
    one, two = (checkpoints.load(tmp_path / f / f"{stem}.safetensors") for f in ("one", "two"))
    assert one.tensors.keys() == two.tensors.keys()


def test_shards_stopped_after_a_checkpoint_go_on_bit_by_bit(tmp_path: Path) -> None:
    objective = {"kind": "velocity", "guidance_scale": 3.0}
    config = few_steps(
        tmp_path, "sparse", objective=objective, shard=True, batch=2, checkpoint_every=2
    )
    in_two_processes(tmp_path, config, tmp_path / "whole")
    # the checkpoint of step 2 is written once step 3 has shown that it is good
    in_two_processes(tmp_path, config, tmp_path / "parts", stop=3)
    assert checkpoints.load(tmp_path / "parts" / CHECKPOINT).config["step"] == 2
    in_two_processes(tmp_path, config, tmp_path / "parts")
    for name in ("checkpoint", "student", "student_ema0.9"):
        parts, whole = (
            checkpoints.load(tmp_path / f / f"{name}.safetensors").tensors
            for f in ("parts", "whole")
        )
        assert parts.keys() == whole.keys()
        assert all(torch.equal(tensor, parts[n]) for n, tensor in whole.items())


PRIOR_SCRIPT = """
import sys
from pathlib import Path
from geo3d.config import load_config
from shape_matching.prior.training import PriorTrainingConfig, train_prior
train_prior(load_config(PriorTrainingConfig, sys.argv[1]), Path(sys.argv[2]), device="cpu")
"""


def test_two_processes_train_the_prior_of_one(tmp_path: Path) -> None:
    config = PriorTrainingConfig(
        data=str(write_maps(tmp_path / "maps")), network=NETWORK, preconditioning="edm",
        loss="edm", samples=48, batch=16, warmup_samples=0, learning_rate=1e-5,
        validation_share=0.2,
    )  # fmt: skip
    in_two_processes(tmp_path, config, tmp_path / "two", script=PRIOR_SCRIPT)
    train_prior(config, tmp_path / "one", device="cpu")
    one, two = (checkpoints.load(tmp_path / n / CHECKPOINT).tensors for n in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=7e-5)


DYING_SCRIPT = """
import os, signal, sys
from pathlib import Path
from geo3d.config import load_config
from shape_matching.prior.training import PriorTrainingConfig, train_prior
out = Path(sys.argv[2])
died = out.with_name("died")
def die(event):
    if os.environ["RANK"] == "1" and event["step"] == int(sys.argv[3]) and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
train_prior(load_config(PriorTrainingConfig, sys.argv[1]), out, device="cpu", progress=die)
"""


def test_a_process_that_dies_ends_the_others_and_the_training_goes_on(tmp_path: Path) -> None:
    """torchrun stops the living; the same command continues from the last checkpoint."""
    config = PriorTrainingConfig(
        data=str(write_maps(tmp_path / "maps")), network=NETWORK, preconditioning="edm",
        loss="edm", samples=96, batch=16, warmup_samples=0, learning_rate=1e-5,
        validation_share=0.2, checkpoint_seconds=1e-3,
    )  # fmt: skip
    with pytest.raises(AssertionError, match=r"SIGKILL|Signal 9"):
        in_two_processes(tmp_path, config, tmp_path / "parts", stop=4, script=DYING_SCRIPT)
    assert 0 < checkpoints.load(tmp_path / "parts" / CHECKPOINT).config["step"] < 6
    in_two_processes(tmp_path, config, tmp_path / "parts", stop=4, script=DYING_SCRIPT)
    in_two_processes(tmp_path, config, tmp_path / "whole", script=PRIOR_SCRIPT)
    parts, whole = (checkpoints.load(tmp_path / n / CHECKPOINT).tensors for n in ("parts", "whole"))
    assert parts.keys() == whole.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
