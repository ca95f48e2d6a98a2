"""The converter: everything torch and numpy write is read, and nothing in a pickle is ever run."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geo3d import checkpoints, convert, unpickle
from geo3d.errors import CheckpointError, Geo3dError, InputError, LimitError
from geo3d.pickle_records import array_of


def state_dict() -> OrderedDict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return OrderedDict(
        weight=base,
        tied=base,
        view=base.t()[1:3, ::2],
        parameter=torch.nn.Parameter(base[0]),
        half=base.half(),
        bfloat16=base.bfloat16(),
        double=base.double(),
        integer=(base * 100).long(),
        small=(base * 10).to(torch.int8),
        byte=torch.arange(5, dtype=torch.uint8),
        flags=base > 0,
        scalar=torch.tensor(3),
        empty=torch.zeros(0, 2),
        expanded=torch.ones(1).expand(3, 4),
    )


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
            return _Named("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,)

    file = tmp_path / "m.pkl"
    file.write_bytes(dumps({"ema": Snapshot()}))
    assert read(file, ("*",))[0].keys() == {"ema.w"}
    with pytest.raises(CheckpointError, match="torch_utils"):
        read(file)


class _Named:
    """A global by name, pickled without being importable."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        raise AssertionError


class _Pickler(pickle._Pickler):  # type: ignore[misc]  # the Python one can be extended
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Named):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)


def dumps(content: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream, 2).dump(content)
    return stream.getvalue()


class _Call:
    """Pickles as a call of ``module.name(*args)``."""

    def __init__(self, module: str, name: str, *args: Any) -> None:
        self.call = (_Named(module, name), args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


ATTACKS = [
    _Call("os", "system", "touch {mark}"),
    _Call("posix", "system", "touch {mark}"),
    _Call("subprocess", "Popen", ["touch", "{mark}"]),
    _Call("builtins", "eval", "open('{mark}', 'w')"),
    _Call("builtins", "exec", "open('{mark}', 'w')"),
    _Call("__builtin__", "eval", "open('{mark}', 'w')"),
    _Call("builtins", "getattr", _Named("os", "x"), "system"),
    _Call("builtins", "open", "{mark}", "w"),
    _Call("builtins", "__import__", "os"),
    _Call("torch", "load", "{mark}"),
    _Call("torch.serialization", "load", "{mark}"),
    _Call("numpy", "load", "{mark}"),
    _Call("numpy", "fromfile", "{mark}"),
    _Call("functools", "partial", _Named("os", "system"), "touch {mark}"),
    _Call("runpy", "run_path", "{mark}"),
    _Call("importlib", "import_module", "os"),
    _Call("collections", "OrderedDict.fromkeys", "ab"),
    _Call("collections", "_sys.modules", "ab"),
    _Call("torch.nn.modules.linear", "Linear", 3, 4),
    _Call("geo3d.unpickle", "load_pickle", b""),
    _Call("copyreg", "_reconstructor", _Named("builtins", "list"), _Named("builtins", "object"), 1),
    _Call("_codecs", "encode", "x", "rot13"),
]


@pytest.mark.parametrize("inert", [(), ("*",)])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.call[0].module}.{a.call[0].name}")
def test_attacks_are_refused_and_nothing_runs(
    tmp_path: Path, attack: _Call, inert: tuple[str, ...]
) -> None:
    mark = tmp_path / "mark"
    arguments = tuple(
        a.replace("{mark}", str(mark)) if isinstance(a, str) else a for a in attack.call[1]
    )
    evil = _Call(attack.call[0].module, attack.call[0].name, *arguments)
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
    inner = dumps(_Call("os", "system", "true"))
    file = tmp_path / "evil.pkl"
    file.write_bytes(dumps(_Call("torch.storage", "_load_from_bytes", inner)))
    with pytest.raises(CheckpointError, match=r"os\.system"):
        read(file)


def test_inert_objects_do_nothing(tmp_path: Path) -> None:
    state = {"w": np.ones(2), "__class__": "x", "__setstate__": "y", "__dict__": {}}
    made = b"\x80\x02cmodel.net\nThing\n)\x81"  # model.net.Thing.__new__(Thing)
    (tmp_path / "m.pkl").write_bytes(made + pickle.dumps(state, 2)[2:-1] + b"b.")
    arrays, _ = read(tmp_path / "m.pkl", ("model",))
    assert arrays.keys() == {"w"}


def tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    class Storage:
        pass

    stream = io.BytesIO()

    class Pickler(_Pickler):
        def persistent_id(self, obj: Any) -> Any:
            kind = _Named("torch", "FloatStorage")
            return ("storage", kind, "0", "cpu", 4) if isinstance(obj, Storage) else None

    args = (Storage(), offset, size, stride, False, OrderedDict())
    Pickler(stream, 2).dump(_Call("torch._utils", "_rebuild_tensor_v2", *args))
    return stream.getvalue()


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


def test_the_child_converts_and_the_library_reads_it(tmp_path: Path) -> None:
    source, out = tmp_path / "m.pt", tmp_path / "deep" / "m.safetensors"
    torch.save({"model": state_dict(), "step": 7}, source)
    made = convert.convert_file(source, out)
    loaded = checkpoints.load(out)
    assert made.sha256 == loaded.sha256 and loaded.config == {"step": 7}
    assert set(made.names) == loaded.tensors.keys()
    for name, tensor in state_dict().items():
        assert torch.equal(loaded.tensors[f"model.{name}"], tensor)
        assert loaded.tensors[f"model.{name}"].dtype == tensor.dtype
    assert made.source_sha256 in out.read_bytes()[:4000].decode("latin1")


def failing(source: Path, **kwargs: Any) -> str:
    out = source.parent / "out.safetensors"
    with pytest.raises(InputError) as caught:
        convert.convert_file(source, out, **kwargs)
    assert not out.exists() and not list(source.parent.glob(".tmp-*"))
    return caught.value.code


def test_the_child_reports_our_errors(tmp_path: Path) -> None:
    source = tmp_path / "m.pkl"
    assert failing(source) == "file.missing"
    source.write_bytes(dumps(_Call("os", "system", "true")))
    assert failing(source) == "checkpoint.forbidden_global"
    source.write_bytes(pickle.dumps({"a": 1}))
    assert failing(source) == "checkpoint.no_tensors"
    source.write_bytes(b"not a pickle")
    assert failing(source) == "checkpoint.damaged"
    assert failing(source, max_bytes=3) == "checkpoint.too_large"


def test_the_child_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "m.pkl"
    monkeypatch.setattr(convert, "_SPARE_BYTES", 400 << 20)
    # bytearray(2**40), and a memo slot numbered 2**31 - 1: both ask for memory out of nothing.
    source.write_bytes(dumps(_Call("builtins", "bytearray", 2**40)))
    assert failing(source) in ("checkpoint.too_large", "checkpoint.damaged")
    source.write_bytes(b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".")
    assert failing(source) in ("checkpoint.too_large", "checkpoint.converter_died")


def test_a_slow_child_is_stopped(tmp_path: Path) -> None:
    source = tmp_path / "m.pkl"
    source.write_bytes(pickle.dumps({"a": np.ones(1)}))
    assert failing(source, timeout_s=0.001) == "checkpoint.too_slow"


def test_bombs_in_zip_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "_SPARE_BYTES", 300 << 20)
    source = tmp_path / "m.pt"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle(0, (4,), (1,)))
        with archive.open("archive/data/0", "w", force_zip64=True) as stream:
            for _ in range(320):
                stream.write(bytes(1 << 20))
    assert failing(source) == "checkpoint.too_large"
