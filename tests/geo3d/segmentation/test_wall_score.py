"""How probable it is that an image shows a wall: its numbers by hand, its fit, its warning."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.cli import main
from geo3d.errors import ConfigError
from geo3d.segmentation.config import SegmentationConfig
from geo3d.segmentation.network import NetworkConfig, make_network
from geo3d.segmentation.predict import Segmenter, load_segmenter, save_segmenter
from geo3d.segmentation.samples import Sample
from geo3d.segmentation.wall_score import WallScore, fit_wall_score, mask_structure
from geo3d.segmentation.wall_training import shuffled, train_wall_score
from geo3d.synth.no_walls import KINDS, UNSEEN, no_wall
from geo3d.synth.walls import brick_wall


def structure(rest: np.ndarray) -> dict[str, float]:
    """Return the numbers of a mask that leaves these pieces over."""
    return mask_structure(np.where(rest, 0.0, 1.0))


def bricks() -> np.ndarray:
    """Return nine bricks of 6 x 12 with joints of 2 pixels around them."""
    rest = np.zeros((26, 44), bool)
    for row in range(2, 26, 8):
        for column in range(2, 44, 14):
            rest[row : row + 6, column : column + 12] = True
    return rest


def test_bricks_by_hand() -> None:
    found = structure(bricks())
    assert found["mean_fill"] == pytest.approx(1) and found["good_share"] == 1
    assert found["log_good_pieces"] == pytest.approx(math.log(10))
    assert found["area_spread"] == pytest.approx(0) and found["largest_net"] == 1
    assert found["mortar_share"] == pytest.approx(1 - 9 * 72 / (26 * 44))
    assert found["certainty"] == 1


@pytest.mark.parametrize(
    ("shape", "fill"), [("slanted", 1.0), ("disc", math.pi / 3), ("cross", 0.628), ("ring", 0.475)]
)
def test_the_fill_of_a_piece(shape: str, fill: float) -> None:
    y, x = np.mgrid[-40:40, -40:40] + 0.5
    rest = {
        "slanted": (abs(y) < 15) & (abs(x - y) < 20),
        "disc": np.hypot(y, x) < 30,
        "cross": ((abs(y) < 6) | (abs(x) < 6)) & (np.maximum(abs(x), abs(y)) < 30),
        "ring": abs(np.hypot(y, x) - 25) < 6,
    }[shape]
    assert structure(rest)["mean_fill"] == pytest.approx(fill, abs=0.01)


def test_empty_and_full_masks_have_numbers_too() -> None:
    assert structure(np.ones((32, 32), bool))["largest_net"] == 0
    full = structure(np.zeros((32, 32), bool))
    assert full["mortar_share"] == 1 and full["log_good_pieces"] == full["mean_fill"] == 0


def test_the_fit_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    # One number tells the two apart, by as much as it should; the others say nothing.
    walls, others = rng.normal(0, 1, (2, 400, 5))
    walls[:, 0] += 2
    score, numbers = fit_wall_score(list(walls), list(others))
    # Half way between them, and by Bayes' rule, log odds 2 x - 2.
    for x, wanted in ((1.0, 0.5), (2.0, 1 / (1 + math.exp(-2))), (0.0, 1 / (1 + math.exp(2)))):
        found = score.probability(np.array([x, 0, 0, 0, 0.0]))
        assert found == pytest.approx(wanted, abs=0.08)
    assert numbers["walls_refused"] == pytest.approx(0.16, abs=0.05)
    assert numbers["calibration_error"] < 0.06
    assert abs(score.weight[1:]).max() < 0.3 * score.weight[0]


def with_score(bias: float) -> Segmenter:
    torch.manual_seed(0)
    config = SegmentationConfig(network=NetworkConfig(kind="lite0"))
    network = make_network(config.network).eval()
    n = 7 + 112 + 320
    zeros = np.zeros(n)
    return Segmenter(network, config, wall_score=WallScore(zeros, zeros + 1, zeros, bias))


def test_a_segmenter_that_can_tell_says_so_and_warns(tmp_path: Path) -> None:
    image = brick_wall(0, 80, 96).image
    for bias, wall in ((3.0, 0.95), (-3.0, 0.05)):
        save_segmenter(tmp_path / "s.safetensors", with_score(bias))
        found = load_segmenter(tmp_path / "s.safetensors", "cpu").predict(image)
        assert found.wall == pytest.approx(wall, abs=0.01)
        assert any("does not look like a wall" in n for n in found.notes) == (wall < 0.5)


def test_the_command_line_says_it_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from segmentation_helpers import tiny_segmenter, wall_image

    save_segmenter(tmp_path / "s.safetensors", with_score(-3.0))
    image, out = wall_image(tmp_path / "wall.png", size=64), str(tmp_path / "runs")
    flags = [str(image), "--out", out, "--device", "cpu", "--quiet"]
    assert main(["segment", *flags, "--model", str(tmp_path / "s.safetensors")]) == 0
    shown = capsys.readouterr().out
    assert "a wall with probability 0.05" in shown and "does not look like a wall" in shown
    other = tiny_segmenter(tmp_path / "tiny.safetensors")
    assert main(["segment", *flags, "--model", str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"][0]["wall_probability"] is None


def test_shuffling_keeps_every_piece() -> None:
    image = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(64, 48, 3) % 251
    laid = shuffled(image.astype(np.uint8), 16, np.random.default_rng(0))

    def pieces(pixels: np.ndarray) -> list[bytes]:
        cut = [pixels[r : r + 16, c : c + 16] for r in range(0, 64, 16) for c in range(0, 48, 16)]
        return sorted(np.ascontiguousarray(piece).tobytes() for piece in cut)

    assert pieces(laid) == pieces(image.astype(np.uint8)) and (laid != image).any()


@pytest.mark.parametrize("kind", [*KINDS, *UNSEEN])
def test_images_without_walls(kind: str) -> None:
    image = no_wall(3, 64, kind=kind)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert (image == no_wall(3, 64, kind=kind)).all()
    assert (image != no_wall(4, 64, kind=kind)).any()
    assert (np.ptp(image, axis=(0, 1)).max() == 0) == (kind == "flat")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no_walls\.unknown"):
        no_wall(0, kind="cathedral")


@pytest.mark.slow
def test_an_untrained_encoder_already_tells_walls_from_the_rest() -> None:
    wall = brick_wall(1, 352, 352)
    photographs = [Sample(wall.image, wall.mask)] * 3
    made, numbers = train_wall_score(with_score(0.0), photographs, rounds=2)
    assert made.wall_score is not None and numbers["walls"] == 9 + 14
    assert numbers["others_recognised"] > 0.6 and numbers["walls_refused"] < 0.4
    assert made.info["wall_score"] == numbers


def test_other_networks_cannot_learn_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from segmentation_helpers import tiny_segmenter

    model = tiny_segmenter(tmp_path / "tiny.safetensors")
    argv = ["train", "wall-score", "--model", str(model), "--data", str(tmp_path)]
    assert main(argv) == 2
    assert "segmenter.no_encoder" in capsys.readouterr().err
