"""A pipeline folder in another process: the same object, bit for bit; and batches of four."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from object_pipelines import cut_out_image, tiny_pipeline

from scenes.objects.pipeline import GenerateConfig, Generated, load_pipeline

OUTPUTS = GenerateConfig(outputs=("mesh", "gaussian", "radiance"))
SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from PIL import Image
from test_fresh_process import OUTPUTS, digests
from scenes.objects.pipeline import load_pipeline
made = load_pipeline(sys.argv[1]).generate([Image.open(sys.argv[2])], [11, 12], OUTPUTS).objects
print(chr(10).join(f"{name} {value}" for item in made for name, value in digests(item).items()))
"""


def digests(made: Generated) -> dict[str, str]:
    """Return a digest of every tensor of an object."""
    assert made.latent is not None
    found = {"structure": made.structure, "coords": made.latent.coords, "feats": made.latent.feats}
    for kind in ("mesh", "gaussian", "radiance"):
        part = vars(getattr(made, kind))
        found |= {f"{kind}.{k}": v for k, v in part.items() if isinstance(v, torch.Tensor)}
    return {
        f"{made.seed} {name}": hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        for name, value in found.items()
    }


@pytest.mark.slow
def test_a_fresh_process_makes_the_same_object_bit_for_bit(tmp_path: Path) -> None:
    cut_out_image().save(tmp_path / "picture.png")
    pipeline = tiny_pipeline()
    pipeline.save(tmp_path / "model")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = pipeline.generate([cut_out_image()], [11, 12], OUTPUTS).objects
    finally:
        torch.set_num_threads(threads)
    here, root = Path(__file__).parent, Path(__file__).parents[3]
    path = os.pathsep.join(map(str, (root, root / "tests", here)))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "model"), str(tmp_path / "picture.png")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    wanted = [f"{name} {value}" for item in made for name, value in digests(item).items()]
    assert len(wanted) > 20 and done.stdout.split("\n")[:-1] == wanted


@pytest.mark.parametrize("batch", [None, 4])
def test_a_batch_of_four_is_four_singles(batch: int | None, tmp_path: Path) -> None:
    """Exact where objects pass one by one (the CPU's default), and in rounding where together.

    A matrix product may add up its terms in another order when it has more rows; that is the only
    difference, and it stays below 1e-5 of the latents after the sampler's two steps.
    """
    tiny_pipeline().save(tmp_path)
    pipeline = load_pipeline(tmp_path)
    images = [cut_out_image((40 * i, 200 - 40 * i, 90)) for i in range(4)]
    outputs = ("mesh", "gaussian", "radiance")
    config = GenerateConfig(outputs=outputs, batch=batch)
    four = pipeline.generate(images, [1, 2, 3, 4], config).objects
    single = GenerateConfig(outputs=outputs, batch=1)
    for i, made in enumerate(four):
        (alone,) = pipeline.generate([images[i]], [i + 1], single).objects
        if batch is None:
            assert digests(made) == digests(alone)
            continue
        assert made.latent is not None and alone.latent is not None
        assert torch.equal(made.latent.coords, alone.latent.coords)
        for a, b in ((made.structure, alone.structure), (made.latent.feats, alone.latent.feats)):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()
        assert made.gaussian is not None and alone.gaussian is not None
        torch.testing.assert_close(made.gaussian.xyz, alone.gaussian.xyz, rtol=0, atol=1e-5)
