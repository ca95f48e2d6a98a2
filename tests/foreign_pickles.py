"""Pickles for the tests of the converter: state dicts, and what nobody should load."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

import torch


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


class Named:
    """A global by name, pickled without being importable."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self) -> None:
        raise AssertionError


class NamingPickler(pickle._Pickler):  # type: ignore[misc]  # the Python one can be extended
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        else:
            super().save(obj, save_persistent_id)


def dumps(content: Any) -> bytes:
    stream = io.BytesIO()
    NamingPickler(stream, 2).dump(content)
    return stream.getvalue()


class Call:
    """Pickles as a call of ``module.name(*args)``."""

    def __init__(self, module: str, name: str, *args: Any) -> None:
        self.call = (Named(module, name), args)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    class Storage:
        pass

    stream = io.BytesIO()

    class Pickler(NamingPickler):
        def persistent_id(self, obj: Any) -> Any:
            kind = Named("torch", "FloatStorage")
            return ("storage", kind, "0", "cpu", 4) if isinstance(obj, Storage) else None

    args = (Storage(), offset, size, stride, False, OrderedDict())
    Pickler(stream, 2).dump(Call("torch._utils", "_rebuild_tensor_v2", *args))
    return stream.getvalue()
