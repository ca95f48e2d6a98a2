"""What the decoders of the small pipeline are told, and what exact answers would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree

from geo3d.synth.objects.generate import generate_object
from scenes.objects.data.voxels import visible_shell, voxelize
from scenes.objects.lifting import Guess, LiftingEncoder
from scenes.objects.linear_code import LinearSLatEncoder
from scenes.objects.neighbours import children
from scenes.objects.slat_mesh import CubeLayout, ExtractedMesh, extract_mesh
from scenes.objects.small.autoencoders import (
    GaussianTask,
    MeshTask,
    StructureTask,
    cell_coords,
    corner_distances,
    fine_corners,
    fine_order,
    surface_points,
)
from scenes.objects.small.cells import CellObject, cell_object
from scenes.objects.small.settings import IMAGE_ENCODER, LATENT_ENCODER
from scenes.objects.sparse import SparseTensor, VoxelGrid


@pytest.fixture(scope="module")
def objects() -> list[CellObject]:
    found = []
    for kind in ("cup", "table"):
        cells = visible_shell(voxelize(generate_object(kind, 2).mesh))
        views = np.zeros((1, 64, 64, 4), np.uint8)
        found.append(cell_object(kind, 2, cells, views, np.zeros((1, 6), np.float32)))
    return found


def fewer_cells(item: CellObject, count: int = 20) -> CellObject:
    """Return the first cells of an object."""
    fine = int(item.filled[:count].sum())
    cells = {name: getattr(item, name)[:count] for name in ("coords", "filled", "distances")}
    parts = {name: getattr(item, name)[:fine] for name in ("colors", "normals", "offsets")}
    return replace(item, **cells, **parts)


def exact_cubes(item: CellObject) -> SparseTensor:
    """Return the features that a perfect mesh decoder would give."""
    truth = corner_distances([item])[:, fine_corners()].flatten(0, 1)
    feats = torch.zeros(len(truth), CubeLayout().channels)
    feats[:, :8] = truth + 1 / 64
    grid = children(children(VoxelGrid(cell_coords([item.coords]), 1)))
    return SparseTensor(feats, grid)


def test_rows_and_corners_are_where_the_decoder_has_them(objects: list[CellObject]) -> None:
    item = objects[0]
    base = VoxelGrid(cell_coords([item.coords]), 1)
    fine = children(children(base)).coords[:, 1:].unflatten(0, (-1, 64))
    local = fine - 4 * base.coords[:, None, 1:]
    number = (local[..., 0] * 4 + local[..., 1]) * 4 + local[..., 2]
    assert torch.equal(number[0].long(), fine_order())
    assert torch.equal(number[-1].long(), fine_order())
    # corner 7 is one further along all axes
    step = fine_corners()[:, 7] - fine_corners()[:, 0]
    assert torch.equal(step, torch.full_like(step, 25 + 5 + 1))
    x, y, z = local[0].unbind(1)
    assert torch.equal(fine_corners()[:, 0], ((x * 5 + y) * 5 + z).long())


def test_exact_answers_give_the_object(objects: list[CellObject]) -> None:
    for item in objects:
        made = extract_mesh(exact_cubes(item), 64, CubeLayout(close=False))
        truth, _ = surface_points([item], torch.from_numpy(item.filled))
        points = truth[torch.from_numpy(item.filled)].numpy() / 16 - 0.5
        vertices = made.vertices.numpy()
        assert np.quantile(KDTree(vertices).query(points)[0], 0.98) < 0.6 / 64
        assert np.quantile(KDTree(points).query(vertices)[0], 0.98) < 0.6 / 64


def test_an_open_extraction_has_no_inner_surface(objects: list[CellObject]) -> None:
    def faces(close: bool) -> ExtractedMesh:
        return extract_mesh(exact_cubes(objects[0]), 64, CubeLayout(close=close))

    inner, outer = faces(True), faces(False)
    assert len(outer.faces) < len(inner.faces)
    # what both have is the same
    distance = KDTree(inner.vertices.numpy()).query(outer.vertices.numpy())[0]
    assert np.quantile(distance, 0.95) < 1e-6


def test_losses_fall_and_reach_every_weight(objects: list[CellObject]) -> None:
    torch.manual_seed(0)
    encoder = LinearSLatEncoder(LATENT_ENCODER)
    few = [fewer_cells(objects[0])]
    for task in (MeshTask(few, encoder), GaussianTask(few, encoder)):
        optimizer = torch.optim.Adam(task.network.parameters(), lr=2e-3)
        totals = []
        for _ in range(4):
            optimizer.zero_grad()
            total = sum(task.loss([0], torch.Generator().manual_seed(0)).values())
            assert isinstance(total, torch.Tensor)
            total.backward()
            optimizer.step()
            totals.append(float(total.detach()))
        assert totals[-1] < totals[0]


def test_displacements_and_weights_stay_zero(objects: list[CellObject]) -> None:
    task = MeshTask([fewer_cells(objects[0])], LinearSLatEncoder(LATENT_ENCODER))
    sum(task.loss([0], torch.Generator()).values()).backward()  # type: ignore[union-attr]
    gradient = task.decoder.out_layer.weight.grad
    assert gradient is not None
    assert not gradient[8 : 8 + 24 + 21].any() and gradient[:8].any() and gradient[53:].any()


class Guesser(LiftingEncoder):
    """Guesses that every cell is there."""

    def guess(self, pixels: torch.Tensor, *camera: torch.Tensor | None) -> Guess:
        nothing = torch.zeros(1, 1)
        return Guess(nothing, torch.full((1, 16, 16, 16), 20.0), nothing, nothing, nothing)


def test_the_structure_decoder_reads_guesses_too(
    objects: list[CellObject], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    task = StructureTask([objects[0]], Guesser(IMAGE_ENCODER))
    task.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for share in (1.0, 0.0):
        monkeypatch.setattr("scenes.objects.small.autoencoders._GUESSED", share)
        terms = task.loss([0], torch.Generator().manual_seed(0))
        # what is right stays what it was
        assert bool(terms["dice"] > 0.05)
    assert float(seen[0].mean()) == pytest.approx(1, abs=0.05)
    cells = 2 * objects[0].occupancy().mean() - 1
    assert float(seen[1].mean()) == pytest.approx(cells, abs=0.05)
