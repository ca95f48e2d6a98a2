"""What the tensors, arrays and element types of a foreign pickle are made of, as inert records.

A record only remembers; `array_of` checks it against its storage and turns it into values.  Used by
`geo3d.unpickle` (which fills records) and `geo3d.convert` (which writes them out).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geo3d.errors import CheckpointError, LimitError

_DTYPES = {
    "double": "F64 <f8",
    "float": "F32 <f4",
    "half": "F16 <f2",
    # numpy has no bfloat16: its bits travel as integers.
    "bfloat16": "BF16 <u2",
    "long": "I64 <i8",
    "int": "I32 <i4",
    "short": "I16 <i2",
    "char": "I8 <i1",
    "byte": "U8 <u1",
    "bool": "BOOL <u1",
}


@dataclass
class ElementType:
    """An element type: its name in safetensors and its numpy type (None for Python objects)."""

    name: str
    numpy: np.dtype[Any] | None

    def __setstate__(self, state: Sequence[Any]) -> None:
        """Receive numpy's dtype state, of which only the byte order matters."""
        if self.numpy is not None and state[1] in ("<", ">"):
            self.numpy = self.numpy.newbyteorder(state[1])


@dataclass
class Storage:
    """A flat block of memory; ``read`` fetches its bytes when they are wanted."""

    element: ElementType
    read: Callable[[], bytes]


@dataclass
class TensorRecord:
    """What a torch tensor is made of."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    element: ElementType

    def __setstate__(self, state: Any) -> None:
        """Ignore Python attributes that hang on a tensor."""


@dataclass
class ArrayRecord:
    """What a numpy array is made of; ``raw`` is a list for an array of objects."""

    shape: tuple[int, ...] = ()
    element: ElementType | None = None
    is_fortran: bool = False
    raw: Any = b""

    def __setstate__(self, state: Sequence[Any]) -> None:
        """Receive numpy's array state (version, shape, dtype, is_fortran, raw)."""
        _, self.shape, self.element, self.is_fortran, self.raw = state


def element_type(kind: str) -> ElementType:
    """Return the element type called ``kind`` in torch's storages ("float", "long", ...)."""
    name, code = _DTYPES[kind].split()
    return ElementType(name, np.dtype(code))


def numpy_element_type(code: str, *_: Any) -> ElementType:
    """Return the element type for numpy's code ("f4", "<i8", "b1", "O8", ...)."""
    if re.fullmatch(r"[<>|=]?O8?", code):
        return ElementType("object", None)
    if not re.fullmatch(r"[<>|=]?(f[248]|[iu][1248]|b1)", code):
        raise damaged(f"it holds numpy data of the type {code!r}, which is not supported")
    bits = {"f": "F", "i": "I", "u": "U"}.get(code[-2])
    return ElementType(f"{bits}{int(code[-1]) * 8}" if bits else "BOOL", np.dtype(code))


def array_of(record: TensorRecord | ArrayRecord, max_bytes: int) -> tuple[str, np.ndarray]:
    """Return the safetensors type name and the little-endian values of a record.

    Raises:
        CheckpointError: ``checkpoint.damaged`` (does not fit its storage).
        LimitError: ``checkpoint.too_large``.
    """
    if isinstance(record, TensorRecord):
        return record.element.name, _tensor_values(record, max_bytes)
    element = record.element
    if element is None or element.numpy is None:
        raise damaged("an array has no element type")
    raw = record.raw.encode("latin1") if isinstance(record.raw, str) else bytes(record.raw)
    shape = checked_shape(record.shape)
    if len(raw) != math.prod(shape) * element.numpy.itemsize:
        raise damaged(f"an array of shape {shape} has {len(raw)} bytes")
    values = np.frombuffer(raw, element.numpy)
    values = values.reshape(shape, order="F" if record.is_fortran else "C")
    return element.name, values.astype(element.numpy.newbyteorder("<"))


def _tensor_values(record: TensorRecord, max_bytes: int) -> np.ndarray:
    dtype = record.element.numpy
    size, stride = record.size, record.stride
    if dtype is None or len(size) != len(stride):
        raise damaged("a tensor has no consistent shape")
    if math.prod(size) * dtype.itemsize > max_bytes:
        raise LimitError("checkpoint.too_large", f"A tensor of shape {size} is too large.", "")
    raw = record.storage.read()
    flat = np.frombuffer(raw[: len(raw) // dtype.itemsize * dtype.itemsize], dtype)
    last = record.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) == 0:
        return np.zeros(size, dtype)
    if record.offset < 0 or last >= len(flat):
        raise damaged(f"a tensor of shape {size} reaches outside of its storage")
    steps = [step * dtype.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(flat[record.offset :], size, steps, writeable=False)
    return np.array(view, order="C")


def checked_shape(values: Any) -> tuple[int, ...]:
    """Return ``values`` as a shape or stride, or raise ``checkpoint.damaged``."""
    shape = tuple(values)
    if len(shape) > 32 or any(type(n) is not int or n < 0 for n in shape):
        raise damaged(f"a tensor has the shape or stride {shape}")
    return shape


def itemsize(element: ElementType) -> int:
    """Return the bytes per element, or raise ``checkpoint.damaged`` for Python objects."""
    if element.numpy is None:
        raise damaged("a storage holds Python objects")
    return element.numpy.itemsize


def damaged(why: str) -> CheckpointError:
    """Return the error for a file whose content contradicts itself."""
    return CheckpointError("checkpoint.damaged", f"The file cannot be converted: {why}.", "")
