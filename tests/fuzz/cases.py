"""The files of `apps.bench.fuzz`: small valid meshes and the mutations that damage them.

Everything follows from (seed, case number) through `random.Random`, whose streams are the same on
every machine and Python version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random

import numpy as np

from geo3d.mesh.formats.glb import write_glb
from geo3d.mesh.formats.obj import write_obj
from geo3d.mesh.formats.off import write_off
from geo3d.mesh.formats.ply import write_ply
from geo3d.mesh.formats.stl import write_stl
from geo3d.mesh.mesh import Mesh

MAX_CASE_BYTES = 1 << 20
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
NASTY_NUMBERS = (
    b"0", b"-1", b"1", b"2", b"3", b"255", b"65536", b"99999", b"2147483647", b"2147483648",
    b"-2147483648", b"4294967295", b"9223372036854775807", b"-9223372036854775809", b"1e308",
    b"1e999", b"-1e999", b"1e-320", b"nan", b"inf", b"-inf", b"0x10", b"1_000", b"1,5", b"1.5",
    b"", b"--1", b"1e", b"9" * 400, b"null", b"true", b"[]", b"{}", b'"x"',
)  # fmt: skip
JUNK = (
    b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\r", b"\r\n", b"\n\n\n", b"\t", b"\\\n", b"#", b"/",
    b"//", b"\xc3\xa9", b"\xe2\x88\x9e", b"\xf0\x9f\x92\xa3", b"\xed\xa0\x80", b"\x80\x80",
    b"\xd9\xa1\xd9\xa2", b"OFF", b"COFF", b"ply\n", b"solid x\n", b"end_header\n", b"v 0 0 0\n",
    b"f 1 2 3\n", b"f -1 -2 -3 -4\n", b"endsolid\n", b"element face 9\n", b"glTF", b"<html>", b"{",
    b"property list uchar int vertex_indices\n", b"mtllib ../secret.mtl\n",
)  # fmt: skip
NASTY_WORDS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000, 0x7FC00000, 0x00000001, 0xFFFF)


def make_case(seed: int, case: int, formats: Sequence[str]) -> tuple[str, bytes]:
    """Return the file name suffix and the content of one case."""
    rng = Random(f"{seed}/{case}")
    kind = formats[case % len(formats)]
    data = rng.choice(seed_files(kind))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = rng.choice(MUTATIONS)(data, rng)[:MAX_CASE_BYTES]
    suffix = kind if rng.random() < 0.95 else rng.choice(("obj", "off", "ply", "stl", "glb", "txt"))
    return f".{suffix}", data


@lru_cache
def seed_files(kind: str) -> tuple[bytes, ...]:
    """Return the valid files of one format that cases start from."""
    plain, colored, single, cloud = _shapes()
    if kind == "obj":
        return (write_obj(plain), write_obj(colored), _rich_obj(plain))
    if kind == "off":
        header_on_one_line = write_off(plain).replace(b"OFF\n", b"OFF ", 1)
        return (write_off(plain), write_off(colored), header_on_one_line, _quad_off())
    if kind == "ply":
        meshes = (plain, colored, single, cloud)
        encodings = ("ascii", "binary_little_endian", "binary_big_endian")
        return tuple(write_ply(mesh, encoding) for mesh in meshes for encoding in encodings)
    if kind == "stl":
        return (write_stl(plain), write_stl(single), write_stl(plain, ascii_text=True))
    return tuple(write_glb(mesh) for mesh in (plain, colored, cloud))


def _shapes() -> tuple[Mesh, Mesh, Mesh, Mesh]:
    n = 6
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(0, 2, n))
    vertices = np.stack([x.ravel(), y.ravel(), np.sin(3 * x + y).ravel()], axis=1)
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    lower = np.stack([corner, corner + 1, corner + n + 1], axis=1)
    upper = np.stack([corner, corner + n + 1, corner + n], axis=1)
    faces = np.concatenate([lower, upper])
    colors = (np.arange(3 * n * n) * 5 % 256).astype(np.uint8).reshape(-1, 3)
    return (
        Mesh(vertices, faces),
        Mesh(vertices, faces, colors),
        Mesh(vertices.astype(np.float32), faces),
        Mesh(vertices, np.zeros((0, 3), np.int64), colors),
    )


def _rich_obj(mesh: Mesh) -> bytes:
    """Return an OBJ with everything the format has: texture, normals, groups, negative indices."""
    lines = ["# comment", "mtllib material.mtl", "o thing", "s off"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices.tolist()]
    lines += ["vt 0.0 0.5", "vt 1.0 0.5", "vn 0 0 1", "g part", "usemtl red"]
    for a, b, c in (mesh.faces + 1).tolist()[:20]:
        lines.append(f"f {a}/1/1 {b}/2/1 {c}//1")
    lines += ["f -1 -2 -7 -8", "f 1 2 3 \\", " 4 5", "l 1 2", ""]
    return "\r\n".join(lines).encode("ascii")


def _quad_off() -> bytes:
    corners = "\n".join(f"{i & 1} {i >> 1 & 1} {i >> 2}" for i in range(8))
    quads = ["0 2 3 1", "4 5 7 6", "0 1 5 4", "2 6 7 3", "0 4 6 2", "1 3 7 5"]
    faces = "\n".join(f"4 {quad} 200 100 50" for quad in quads)
    return f"OFF\n# a cube\n8 6 12\n{corners}\n{faces}\n".encode("ascii")


def _flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16)) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(data: bytes, rng: Random) -> bytes:
    other = rng.choice(seed_files(rng.choice(("obj", "off", "ply", "stl", "glb"))))
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _move_block(data: bytes, rng: Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    rest = data[:a] + data[b:]
    at = rng.randrange(len(rest) + 1)
    return rest[:at] + data[a:b] * rng.choice((0, 1, 1, 2, 8)) + rest[at:]


def _replace_number(data: bytes, rng: Random) -> bytes:
    return _with_number(data, rng, NUMBER.search(data, rng.randrange(len(data) + 1)))


def _replace_header_number(data: bytes, rng: Random) -> bytes:
    return _with_number(data, rng, NUMBER.search(data, rng.randrange(min(len(data), 250) + 1)))


def _with_number(data: bytes, rng: Random, match: re.Match[bytes] | None) -> bytes:
    if match is None:
        return data
    new = rng.choice((*NASTY_NUMBERS, str(rng.randrange(300)).encode("ascii")))
    return data[: match.start()] + new + data[match.end() :]


def _swap_numbers(data: bytes, rng: Random) -> bytes:
    a = NUMBER.search(data, rng.randrange(len(data) + 1))
    b = NUMBER.search(data, rng.randrange(len(data) + 1))
    if a is None or b is None or a.end() > b.start():
        return data
    return data[: a.start()] + b[0] + data[a.end() : b.start()] + a[0] + data[b.end() :]


def _duplicate_line(data: bytes, rng: Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    return b"\n".join([*lines[:at], *[lines[at]] * rng.choice((2, 2, 3, 200)), *lines[at + 1 :]])


def _delete_line(data: bytes, rng: Random) -> bytes:
    lines = data.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def _insert_junk(data: bytes, rng: Random) -> bytes:
    at = rng.choice((0, len(data), rng.randrange(len(data) + 1)))
    return data[:at] + rng.choice(JUNK) * rng.choice((1, 1, 2, 500)) + data[at:]


def _swap_endianness(data: bytes, rng: Random) -> bytes:
    size = rng.choice((2, 4, 8))
    start = rng.randrange(len(data) + 1)
    count = rng.choice((1, 8, (len(data) - start) // size))
    block = data[start : start + count * size]
    pieces = [block[i : i + size][::-1] for i in range(0, len(block), size)]
    return data[:start] + b"".join(pieces) + data[start + len(block) :]


def _overwrite_word(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(max(len(data) - 4, 0) + 1)
    word = rng.choice(NASTY_WORDS).to_bytes(4, rng.choice(("little", "big")))
    return data[:at] + word + data[at + 4 :]


def _overwrite_header_word(data: bytes, rng: Random) -> bytes:
    at = rng.choice((80, 8, 12, 16, 4 * rng.randrange(64)))
    word = rng.choice((*NASTY_WORDS, rng.randrange(4096))).to_bytes(4, "little")
    return data[:at] + word + data[at + 4 :]


MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip_bits,
    _truncate,
    _splice,
    _move_block,
    _replace_number,
    _replace_header_number,
    _swap_numbers,
    _duplicate_line,
    _delete_line,
    _insert_junk,
    _swap_endianness,
    _overwrite_word,
    _overwrite_header_word,
)
