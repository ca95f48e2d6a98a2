"""The converter: everything torch and numpy write is read, and nothing in a pickle is ever run."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_pickles import Call, Named, dumps, state_dict, tensor_pickle
from hypothesis import given, settings
from hypothesis import strategies as st

from geo3d import convert, unpickle
from geo3d.errors import CheckpointError, Geo3dError, LimitError
from geo3d.pickle_records import array_of


def read(path: Path, inert: tuple[str, ...] = ()) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Convert in this process, for speed; the child is tested below."""
    records, values = convert.flatten(convert.read_foreign(path, inert))
    return {name: array_of(r, 1 << 24)[1] for name, r in records.items()}, values


def same(array: np.ndarray, tensor: torch.Tensor) -> bool:
    tensor = tensor.detach().contiguous()
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return array.shape == tuple(tensor.shape) and array.tobytes() == raw


@pytest.mark.parametrize("zipped", [True, False])
def test_parity_with_torch_save(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "m.pt"
    content = {"model": state_dict(), "step": 7, "lr": 1e-3, "note": "x", "none": None, "a": [1]}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    arrays, values = read(file)
    assert arrays.keys() == {f"model.{name}" for name in state_dict()}
    for name, tensor in state_dict().items():
        assert same(arrays[f"model.{name}"], tensor), name
    assert values == {"step": 7, "lr": 1e-3, "note": "x", "none": None, "a.0": 1}


@pytest.mark.parametrize("protocol", range(6))
def test_parity_with_plain_pickles(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "m.pkl"
    content = {
        "t": torch.arange(6.0).reshape(2, 3),
        "c": np.arange(6).reshape(2, 3),
        "f": np.arange(6.0).reshape(2, 3).T,
        "big_endian": np.arange(3, dtype=">f4"),
        "flags": np.array([True, False]),
        "scalar": np.float32(2.5),
        "objects": np.array([{"x": np.ones(2)}, None], dtype=object),
        "size": torch.Size([1, 2]),
        "bytes": {b"k".decode(): 1},
    }
    file.write_bytes(pickle.dumps(content, protocol))
    arrays, values = read(file)
    assert same(arrays["t"], content["t"])
    for name in ("c", "f", "flags", "big_endian"):
        assert np.array_equal(arrays[name], content[name])
    assert np.array_equal(arrays["objects.0.x"], np.ones(2))
    assert values["scalar"] == 2.5 and values["objects.1"] is None and values["size.1"] == 2


def test_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3).T)
    assert np.array_equal(read(tmp_path / "a.npy")[0]["value"], np.arange(6.0).reshape(2, 3).T)
    layout = {"objs": [{"pose": np.eye(4), "class": "car"}], "camera": [np.zeros(2)]}
    np.save(tmp_path / "b.npy", np.array(layout, dtype=object), allow_pickle=True)
    arrays, values = read(tmp_path / "b.npy")
    assert arrays.keys() == {"objs.0.pose", "camera.0"} and values == {"objs.0.class": "car"}
    np.savez_compressed(tmp_path / "c.npz", a=np.ones(3), b=np.array([layout], dtype=object))
    arrays, _ = read(tmp_path / "c.npz")
    assert arrays.keys() == {"a", "b.0.objs.0.pose", "b.0.camera.0"}


def test_modules_become_state_dicts_when_allowed(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module.parent = [module]  # a cycle
    torch.save({"ema": module}, tmp_path / "m.pt")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"ema": module}))
    for file in (tmp_path / "m.pt", tmp_path / "m.pkl"):
        with pytest.raises(CheckpointError) as caught:
            read(file)
        assert caught.value.code == "checkpoint.forbidden_global"
        assert "torch.nn.modules.container.Sequential" in caught.value.message
        for inert in (("torch.nn",), ("*",)):
            arrays, _ = read(file, inert)
            for name, tensor in module.state_dict().items():
                assert same(arrays[f"ema.{name}"], tensor)


def test_snapshots_that_carry_source_code(tmp_path: Path) -> None:
    class Snapshot:
        def __reduce__(self) -> tuple[Any, ...]:
            meta = {"module_src": "raise SystemExit", "state": {"_parameters": {"w": np.ones(2)}}}
            return Named("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,)

    file = tmp_path / "m.pkl"
    file.write_bytes(dumps({"ema": Snapshot()}))
    assert read(file, ("*",))[0].keys() == {"ema.w"}
    with pytest.raises(CheckpointError, match="torch_utils"):
        read(file)


ATTACKS = [
    Call("os", "system", "touch {mark}"),
    Call("posix", "system", "touch {mark}"),
    Call("subprocess", "Popen", ["touch", "{mark}"]),
    Call("builtins", "eval", "open('{mark}', 'w')"),
    Call("builtins", "exec", "open('{mark}', 'w')"),
    Call("__builtin__", "eval", "open('{mark}', 'w')"),
    Call("builtins", "getattr", Named("os", "x"), "system"),
    Call("builtins", "open", "{mark}", "w"),
    Call("builtins", "__import__", "os"),
    Call("torch", "load", "{mark}"),
    Call("torch.serialization", "load", "{mark}"),
    Call("numpy", "load", "{mark}"),
    Call("numpy", "fromfile", "{mark}"),
    Call("functools", "partial", Named("os", "system"), "touch {mark}"),
    Call("runpy", "run_path", "{mark}"),
    Call("importlib", "import_module", "os"),
    Call("collections", "OrderedDict.fromkeys", "ab"),
    Call("collections", "_sys.modules", "ab"),
    Call("torch.nn.modules.linear", "Linear", 3, 4),
    Call("geo3d.unpickle", "load_pickle", b""),
    Call("copyreg", "_reconstructor", Named("builtins", "list"), Named("builtins", "object"), 1),
    Call("_codecs", "encode", "x", "rot13"),
]


@pytest.mark.parametrize("inert", [(), ("*",)])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.call[0].module}.{a.call[0].name}")
def test_attacks_are_refused_and_nothing_runs(
    tmp_path: Path, attack: Call, inert: tuple[str, ...]
) -> None:
    mark = tmp_path / "mark"
    arguments = tuple(
        a.replace("{mark}", str(mark)) if isinstance(a, str) else a for a in attack.call[1]
    )
    evil = Call(attack.call[0].module, attack.call[0].name, *arguments)
    for wrapped in (evil, {"a": [np.ones(2), {"b": evil}]}):
        for data in (dumps(wrapped), torch_zip(dumps(wrapped)), npy(dumps(wrapped))):
            file = tmp_path / "evil.pt"
            file.write_bytes(data)
            with pytest.raises(CheckpointError) as caught:
                read(file, inert)
            assert caught.value.code in ("checkpoint.forbidden_global", "checkpoint.damaged")
            assert not mark.exists()


def torch_zip(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return stream.getvalue()


def npy(data: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|O", "fortran_order": False, "shape": ()}
    )
    return stream.getvalue() + data


def test_nested_pickle_in_a_tensor_storage_is_restricted_too(tmp_path: Path) -> None:
    inner = dumps(Call("os", "system", "true"))
    file = tmp_path / "evil.pkl"
    file.write_bytes(dumps(Call("torch.storage", "_load_from_bytes", inner)))
    with pytest.raises(CheckpointError, match=r"os\.system"):
        read(file)


def test_inert_objects_do_nothing(tmp_path: Path) -> None:
    state = {"w": np.ones(2), "__class__": "x", "__setstate__": "y", "__dict__": {}}
    made = b"\x80\x02cmodel.net\nThing\n)\x81"  # model.net.Thing.__new__(Thing)
    (tmp_path / "m.pkl").write_bytes(made + pickle.dumps(state, 2)[2:-1] + b"b.")
    arrays, _ = read(tmp_path / "m.pkl", ("model",))
    assert arrays.keys() == {"w"}


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), (1, 1)),
        (0, (2, -2), (1, 1)),
        (0, (2,), (2**62,)),
    ],
)
def test_tensors_that_reach_outside_of_their_storage(
    tmp_path: Path, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    file = tmp_path / "m.pt"
    write_torch(file, tensor_pickle(offset, size, stride))
    with pytest.raises(CheckpointError) as caught:
        read(file)
    assert caught.value.code == "checkpoint.damaged"


def write_torch(file: Path, data: bytes) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))


def test_a_tensor_that_swells_is_refused(tmp_path: Path) -> None:
    write_torch(tmp_path / "m.pt", tensor_pickle(0, (2**20, 2**20), (0, 0)))
    with pytest.raises(LimitError) as caught:
        read(tmp_path / "m.pt")
    assert caught.value.code == "checkpoint.too_large"


def test_names_that_clash(tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}))
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path / "m.pkl")
    assert caught.value.code == "checkpoint.name_clash"


def test_deep_and_bushy_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_MAX_NODES", 10_000)
    (tmp_path / "deep.pkl").write_bytes(b"\x80\x02" + b"]" * 500 + b"a" * 499 + b".")
    with pytest.raises(CheckpointError, match="nested deeper"):
        read(tmp_path / "deep.pkl")
    bushy: Any = [1]
    for _ in range(40):
        bushy = [bushy, bushy]  # 2**40 leaves in a few hundred bytes
    (tmp_path / "bushy.pkl").write_bytes(pickle.dumps(bushy))
    with pytest.raises(LimitError):
        read(tmp_path / "bushy.pkl")


SEEDS = [
    pickle.dumps({"a": np.arange(4.0), "b": [1, "x", None, 2.5]}, 2),
    pickle.dumps({"a": np.arange(4.0), "s": {1, 2}, "o": np.array([1, None])}, 4),
    tensor_pickle(0, (2, 2), (2, 1)),
]


@settings(max_examples=200)
@given(st.sampled_from(SEEDS), st.data())
def test_mutated_pickles_end_in_values_or_our_errors(seed: bytes, data: st.DataObject) -> None:
    mutated = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        # Opcodes that allocate by a number in the file are left to the child's limits.
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    if any(big(op, arg) for op, arg in opcodes(bytes(mutated))):
        return
    try:
        convert.flatten(unpickle.load_pickle(io.BytesIO(bytes(mutated)), lambda pid: None))  # type: ignore[arg-type,return-value]
    except (Geo3dError, MemoryError):  # the child turns the latter into an error of ours
        pass


def opcodes(data: bytes) -> list[tuple[str, Any]]:
    found = []
    try:
        for op, arg, _ in pickletools.genops(data):
            found.append((op.name, arg))
    except Exception:
        pass
    return found


def big(op: str, arg: Any) -> bool:
    return "PUT" in op and isinstance(arg, int) and arg > 10**6
