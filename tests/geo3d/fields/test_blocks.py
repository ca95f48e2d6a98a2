"""Cells and blocks: who owns a point, and that paging changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from geo3d.errors import CheckpointError, ConfigError
from geo3d.fields.blocks import Blocks
from geo3d.fields.cells import Lattice, cell_name, cells_of_boxes, code_of_cell


def make(name: str) -> nn.Module:
    torch.manual_seed(sum(name.encode()))
    return nn.Linear(3, 2)


def train(blocks: Blocks, order: list[str]) -> None:
    for number, name in enumerate(order):
        x = torch.full((4, 3), 0.1 * number + 0.2)
        (blocks.get(name, train=True)(x) ** 2).sum().backward()
        blocks.step()


ORDER = ["a", "b", "c", "a", "d", "b", "a", "c", "d", "a"]


def test_cell_of_a_point_by_hand() -> None:
    lattice = Lattice(400.0, [(0, 0, 0), (0, 0, 1), (0, 0, 2)])
    points = torch.tensor([[199.9, 0, 200.1], [0, 0, 200.0], [0, 0, 600.0], [0, 0, -900.0]])
    found = {m.key: m.points.tolist() for m in lattice.locate(points)}
    assert found == {(0, 0, 0): [1], (0, 0, 1): [0], (0, 0, 2): [2]}
    assert lattice.codes(points)[0] == code_of_cell((0, 0, 1))
    torch.testing.assert_close(lattice.local(points[:1], (0, 0, 1))[0, 2], torch.tensor(0.00025))


def test_shares_sum_to_one_and_are_continuous() -> None:
    keys = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    lattice = Lattice(10.0, keys, band=2.0)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(5000, 3, generator=generator) * 20 - 10
    total = torch.zeros(5000)
    for member in lattice.locate(points):
        total[member.points] += member.weights
        local = lattice.local(points[member.points], member.key)
        assert ((local >= 0) & (local <= 1)).all()
    torch.testing.assert_close(total, torch.ones(5000))
    line = torch.zeros(201, 3)
    line[:, 0] = torch.linspace(3.5, 6.5, 201)
    share = torch.zeros(201)
    member = next(m for m in lattice.locate(line) if m.key == (1, 0, 0))
    share[member.points] = member.weights
    torch.testing.assert_close(share, ((line[:, 0] - 4) / 2).clamp(0, 1), atol=1e-5, rtol=0)


def test_a_missing_neighbour_leaves_no_hole() -> None:
    (member,) = Lattice(10.0, [(0, 0, 0)], band=2.0).locate(torch.tensor([[4.9, 0.0, 0.0]]))
    assert member.weights.tolist() == [1.0]
    assert Lattice(10.0, []).locate(torch.zeros(1, 3)) == []


def test_cells_of_boxes_by_hand() -> None:
    boxes = np.array([[[-1.0, 0, 0], [1, 1, 14]], [[26, 0, 0], [27, 1, 1]]])
    assert cells_of_boxes(boxes, 10.0) == ((0, 0, 0), (0, 0, 1), (3, 0, 0))
    # 4.5 lies within half a band of the face at 5
    near = np.array([[[0, 0, 0], [4.5, 1, 1]]])
    assert cells_of_boxes(near, 10.0, 2.0) == ((0, 0, 0), (1, 0, 0))
    assert cell_name((0, -1, 2)) == "x0y-1z2"


def test_bad_lattices() -> None:
    for side, band in ((0.0, 0.0), (1.0, 1.0), (1.0, -0.1)):
        with pytest.raises(ConfigError, match=r"config\.bad_value"):
            Lattice(side, [], band)


def test_paging_changes_no_number(tmp_path: Path) -> None:
    roomy, tight = Blocks(make, tmp_path / "r", None, 10), Blocks(make, tmp_path / "t", None, 1)
    for blocks in (roomy, tight):
        blocks.learn(0.1)
        train(blocks, ORDER)
    assert len(tight.state_dict()) == 1 < len(roomy.state_dict()) == 4
    assert tight.resident_bytes() < roomy.resident_bytes()
    for name in "abcd":
        assert torch.equal(tight.get(name).weight, roomy.get(name).weight)


def test_moments_come_back_and_others_keep_theirs(tmp_path: Path) -> None:
    blocks = Blocks(make, tmp_path, None, 10)
    blocks.learn(0.1)
    train(blocks, ["a", "a", "b"])
    other = Blocks(make, tmp_path / "more", tmp_path, 10)
    other.learn(0.1)
    blocks.flush()
    for each in (blocks, other):
        train(each, ["a", "c"])
    assert torch.equal(other.get("a").weight, blocks.get("a").weight)
    assert not (tmp_path / "c.safetensors").exists()


def test_frozen_blocks_stay_bit_identical(tmp_path: Path) -> None:
    blocks = Blocks(make, tmp_path, None, 1)
    blocks.learn(0.1)
    train(blocks, ["a", "b"])
    blocks.flush()
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*")}
    blocks.train_only({"b"})
    x = torch.ones(4, 3)
    for _ in range(3):
        sum((blocks.get(n, train=True)(x) ** 2).sum() for n in "ab").backward()
        assert blocks.step() == ("b",)
    blocks.flush()
    after = {p.name: p.read_bytes() for p in tmp_path.glob("*")}
    assert before["a.safetensors"] == after["a.safetensors"]
    assert before["b.safetensors"] != after["b.safetensors"]


def test_untrained_blocks_have_no_file(tmp_path: Path) -> None:
    blocks = Blocks(make, tmp_path, None, 1)
    for name in "abc":
        blocks.get(name)
        blocks.trim()
    assert blocks.export(tmp_path / "out") == ()


def test_export_without_moments(tmp_path: Path) -> None:
    blocks = Blocks(make, tmp_path / "work", None, 2)
    blocks.learn(0.1)
    train(blocks, ["a", "b"])
    train(blocks, ["twin/.."])
    sizes = {}
    for moments in (True, False):
        names = blocks.export(tmp_path / str(moments), moments)
        assert len(names) == 3
        sizes[moments] = (tmp_path / str(moments) / "a.safetensors").stat().st_size
    assert sizes[False] < sizes[True]
    again = Blocks(make, None, tmp_path / "False", 2)
    assert torch.equal(again.get("twin/..").weight, blocks.get("twin/..").weight)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resident"):
        Blocks(make, tmp_path, None, 0)
    blocks = Blocks(make, tmp_path, None, 1)
    with pytest.raises(ConfigError, match="learn"):
        blocks.step()
    blocks.learn(0.1)
    train(blocks, ["a"])
    blocks.flush()
    with pytest.raises(CheckpointError, match="do not fit"):
        Blocks(lambda name: nn.Linear(2, 2), tmp_path, None, 1).get("a")
