"""Maps with -1 in files of either base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shape_matching.map_files import load_p2p, save_p2p


@pytest.mark.parametrize("one_based", [False, True])
@pytest.mark.parametrize("name", ["map.txt", "map.npy", "map.npz", "map.mat"])
def test_no_counterpart_is_kept_in_files(tmp_path: Path, name: str, one_based: bool) -> None:
    p2p_21 = np.array([3, -1, 0])
    path = save_p2p(tmp_path / name, p2p_21, {}, one_based)
    assert load_p2p(path, one_based).tolist() == [3, -1, 0]
