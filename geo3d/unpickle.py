"""Read foreign pickles as data.  The only module of the project that touches `pickle`.

A pickle is a program: it names globals, calls them and sets state.  Here every global is looked up
in a table of this module's own harmless stand-ins, and never imported: containers, and *records*
that only remember what a tensor, array or dtype would be made of.  A name outside the table is
refused, or, where the caller allows its module, becomes an inert record that holds attributes and
can do nothing.  No torch, no numpy state setter and no foreign code runs.  Memory and time are the
caller's business: `geo3d.convert` runs this in a limited child process.

What the records hold is turned into plain arrays by `geo3d.pickle_records.array_of`.
"""

from __future__ import annotations

import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from geo3d.errors import CheckpointError, LimitError
from geo3d.pickle_records import (
    ArrayRecord,
    ElementType,
    Storage,
    TensorRecord,
    array_of,
    checked_shape,
    damaged,
    element_type,
    itemsize,
    numpy_element_type,
)

_TORCH_NAMES = {
    "double": ("DoubleStorage", "float64", "double"),
    "float": ("FloatStorage", "float32", "float"),
    "half": ("HalfStorage", "float16", "half"),
    "bfloat16": ("BFloat16Storage", "bfloat16"),
    "long": ("LongStorage", "int64", "long"),
    "int": ("IntStorage", "int32", "int"),
    "short": ("ShortStorage", "int16", "short"),
    "char": ("CharStorage", "int8"),
    "byte": ("ByteStorage", "uint8", "UntypedStorage"),
    "bool": ("BoolStorage", "bool"),
}
# Modules whose names never become inert records: a pickle that mentions them means harm.
_HOSTILE = re.compile(
    r"(builtins|__builtin__|os|nt|posix|sys|subprocess|shutil|socket|importlib|runpy|code|ctypes"
    r"|pty|commands|pickle|_pickle|cloudpickle|dill|operator|functools|types|marshal|webbrowser"
    r"|asyncio|multiprocessing|timeit|pdb|bdb|cProfile|trace|pip)(\.|$)"
)


class _InertType(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        # Reached by the opcode that calls a function: an object would come through __new__.
        _forbid(cls.__module__, cls.__qualname__, "a pickle may not call it")


class Inert(metaclass=_InertType):
    """An object of a class that is not loaded: it holds attributes and items and does nothing."""

    attributes: dict[str, Any]
    items: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Make an empty record, whatever the class would have been given."""
        record = object.__new__(cls)
        object.__setattr__(record, "attributes", {})
        object.__setattr__(record, "items", [])
        return record

    def __setstate__(self, state: Any) -> None:
        """Receive the object's state: a dict, or a pair of dicts (with slots)."""
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, Mapping):
                self.attributes.update({str(key): value for key, value in part.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        """Receive an entry of a dict subclass."""
        self.attributes[str(key)] = value

    def append(self, value: Any) -> None:
        """Receive an entry of a list subclass."""
        self.items.append(value)

    def extend(self, values: Sequence[Any]) -> None:
        """Receive entries of a list subclass."""
        self.items.extend(values)


def load_pickle(
    stream: io.BufferedIOBase,
    storage_of: Callable[[Sequence[Any]], Storage] | None = None,
    inert: Sequence[str] = (),
) -> Any:
    """Read one pickle from ``stream`` into containers and records.

    Args:
        stream: positioned at the start of the pickle; left behind its end.
        storage_of: turns torch's persistent id (a tuple) into a storage.
        inert: modules (with those below them) whose classes may become inert records; "*" for all.

    Raises:
        CheckpointError: ``checkpoint.forbidden_global``, ``checkpoint.damaged``.
    """
    try:
        return _Unpickler(stream, storage_of, inert).load()
    except (CheckpointError, LimitError, MemoryError):
        raise
    except Exception as error:
        # The opcodes of a damaged pickle can raise nearly anything.
        raise damaged(f"its pickle is broken ({type(error).__name__}: {error})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        stream: io.BufferedIOBase,
        storage_of: Callable[[Sequence[Any]], Storage] | None,
        inert: Sequence[str],
    ) -> None:
        super().__init__(stream, encoding="latin1")
        self._storage_of = storage_of
        self._inert = tuple(inert)
        self._table = {**_GLOBALS, **_nested_loaders(inert)}

    def find_class(self, module: str, name: str) -> Any:
        known = self._table.get((module, name))
        if known is not None:
            return known
        if _HOSTILE.match(module) or not self._may_be_inert(module):
            _forbid(module, name, "only tensors, arrays and plain containers are read")
        # A fresh class per name, so that nothing set on one reaches another.
        return _InertType(name, (Inert,), {"__module__": module, "__qualname__": name})

    def persistent_load(self, pid: Any) -> Any:
        if self._storage_of is None or not isinstance(pid, tuple) or len(pid) < 5:
            raise damaged("it refers to data that lies outside of the file")
        return self._storage_of(pid)

    def _may_be_inert(self, module: str) -> bool:
        return any(
            pattern == "*" or module == pattern or module.startswith(pattern + ".")
            for pattern in self._inert
        )


def read_legacy(stream: io.BufferedIOBase, inert: Sequence[str] = ()) -> Any:
    """Read torch's file format from before version 1.6: pickles, then the storages' bytes."""
    for _ in range(3):
        load_pickle(stream)  # magic number, version, description of the machine
    blocks: dict[str, bytes] = {}

    def storage_of(pid: Sequence[Any]) -> Storage:
        if pid[0] != "storage" or not isinstance(pid[1], ElementType) or any(pid[5:]):
            raise damaged("it uses a kind of storage that is not supported")
        elements[str(pid[2])] = pid[1]
        return Storage(pid[1], lambda: blocks[str(pid[2])])

    elements: dict[str, ElementType] = {}
    result = load_pickle(stream, storage_of, inert)
    for key in load_pickle(stream):
        count = int.from_bytes(stream.read(8), "little", signed=True)
        if key not in elements or count < 0:
            raise damaged("its list of storages is broken")
        blocks[key] = stream.read(count * itemsize(elements[key]))
    return result


def _nested_loaders(inert: Sequence[str]) -> dict[tuple[str, str], Any]:
    """Return stand-ins for globals that wrap another pickle or another object's state."""

    def load_from_bytes(data: bytes) -> Any:
        return read_legacy(io.BytesIO(data), inert)

    def persistent_object(meta: Mapping[str, Any]) -> Inert:
        # Snapshots of EDM and StyleGAN carry their source code as text: it stays text.
        record = Inert.__new__(Inert)
        record.__setstate__(meta.get("state"))
        return record

    table: dict[tuple[str, str], Any] = {("torch.storage", "_load_from_bytes"): load_from_bytes}
    if inert:
        table["torch_utils.persistence", "_reconstruct_persistent_obj"] = persistent_object
    return table


def _rebuild_tensor(storage: Storage, offset: int, size: Any, stride: Any, *_: Any) -> TensorRecord:
    return TensorRecord(
        storage, int(offset), checked_shape(size), checked_shape(stride), storage.element
    )


def _rebuild_tensor_v3(
    storage: Storage, offset: int, size: Any, stride: Any, *rest: Any
) -> TensorRecord:
    # rest: requires_grad, hooks, dtype, metadata.  The storage is untyped here.
    return TensorRecord(storage, int(offset), checked_shape(size), checked_shape(stride), rest[2])


def _rebuild_parameter(data: TensorRecord, *_: Any) -> TensorRecord:
    return data


def _rebuild_from_type(function: Any, kind: Any, args: Sequence[Any], state: Any) -> Any:
    if function not in (_rebuild_tensor, _rebuild_tensor_v3, _rebuild_parameter):
        raise damaged("it rebuilds a tensor in an unknown way")
    return function(*args)


def _reconstruct_array(*_: Any) -> ArrayRecord:
    return ArrayRecord()


def _array_from_buffer(raw: Any, element: ElementType, shape: Any, order: str) -> ArrayRecord:
    return ArrayRecord(checked_shape(shape), element, order == "F", bytes(raw))


def _scalar(element: ElementType, raw: Any = b"") -> Any:
    _, values = array_of(ArrayRecord((), element, False, raw), max_bytes=1 << 10)
    return values.item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # Pickles of protocol 2 spell bytes this way; no other codec is looked up.
    if encoding not in ("latin1", "latin-1"):
        raise damaged(f"it uses the text encoding {encoding!r}")
    return text.encode("latin1")


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    # Protocols 0 and 1 make objects through this function.
    if not (isinstance(cls, type) and issubclass(cls, Inert)):
        raise damaged("it makes an object in an unknown way")
    return cls.__new__(cls)


def _size(values: Any = ()) -> tuple[int, ...]:
    return checked_shape(values)


class _ArrayType:
    """Stands for numpy.ndarray and object where a pickle passes them as an argument."""


def _globals() -> Iterator[tuple[tuple[str, str], Any]]:
    for kind, names in _TORCH_NAMES.items():
        for name in names:
            yield ("torch", name), element_type(kind)
    yield ("torch.storage", "UntypedStorage"), element_type("byte")
    for core in ("numpy.core", "numpy._core"):
        yield (f"{core}.multiarray", "_reconstruct"), _reconstruct_array
        yield (f"{core}.multiarray", "scalar"), _scalar
        yield (f"{core}.numeric", "_frombuffer"), _array_from_buffer
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, bytearray, complex, list, dict, tuple, int, float, bool):
            yield (module, kind.__name__), kind
        yield (module, "object"), _ArrayType
    for module in ("copyreg", "copy_reg"):
        yield (module, "_reconstructor"), _reconstructor


_GLOBALS: dict[tuple[str, str], Any] = {
    **dict(_globals()),
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.nn.parameter", "Parameter"): _ArrayType,
    ("torch", "Tensor"): _ArrayType,
    ("torch", "Size"): _size,
    ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): numpy_element_type,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
}


def _forbid(module: str, name: str, why: str) -> NoReturn:
    raise CheckpointError(
        "checkpoint.forbidden_global",
        f"The file asks for {module}.{name}; {why}.",
        "If it is a class of a model you know, allow its module: --inert MODULE. "
        "Otherwise do not trust the file.",
    )
