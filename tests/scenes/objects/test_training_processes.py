"""Two processes train what one trains (needs Accelerate)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distill_helpers import settings

from geo3d import checkpoints
from geo3d.config import config_from_dict, dump_config
from scenes.objects.train_config import DistillConfig
from scenes.objects.training import CHECKPOINT, train

SCRIPT = """
import sys
from pathlib import Path
from geo3d.config import load_config
from scenes.objects.train_config import DistillConfig
from scenes.objects.training import train
train(load_config(DistillConfig, sys.argv[1]), Path(sys.argv[2]), device="cpu")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs Accelerate")
@pytest.mark.parametrize("kind", ["velocity", "distribution"])
def test_two_processes_train_what_one_trains(kind: str, tmp_path: Path) -> None:
    objective = {"kind": kind, "guidance": 2.0, "tracker_updates": 1}
    values = settings(tmp_path, "dense", objective=objective, split=1, steps=3)
    # plain gradient descent would do; AdamW makes large steps of rounding in tiny gradients
    values["optimiser"] = {"learning_rate": 1e-5, "average_rates": [0.9]}
    config = config_from_dict(DistillConfig, values)
    (tmp_path / "config.yaml").write_text(dump_config(config), "utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--standalone"]
    command += [str(tmp_path / "script.py"), str(tmp_path / "config.yaml"), str(tmp_path / "two")]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        ["env", f"PYTHONPATH={root}:{':'.join(sys.path)}", *command],
        cwd=root, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    train(config, tmp_path / "one", device="cpu")
    one, two = (checkpoints.load(tmp_path / n / CHECKPOINT).tensors for n in ("one", "two"))
    assert one.keys() == two.keys()
    torch.testing.assert_close(one["clipper.norms"], two["clipper.norms"], rtol=1e-4, atol=1e-7)
    for name in (n for n in one if n.startswith("masters.weights.")):
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=7e-5)
