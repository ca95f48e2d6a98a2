"""Files made to do harm, built at run time: each is refused with its code, quickly and cheaply."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import icosphere

from geo3d.errors import InputError
from geo3d.mesh import sandbox
from geo3d.mesh.formats.glb import write_glb
from geo3d.mesh.io import parse_bytes, read_raw, save_mesh
from geo3d.mesh.sandbox import load_untrusted

ROOT = str(Path(__file__).resolve().parents[2])
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def refused(path: Path) -> str:
    """Return the code with which both ways of reading refuse the file."""
    with pytest.raises(InputError) as direct:
        read_raw(path)
    with pytest.raises(InputError) as boxed:
        load_untrusted(path)
    assert direct.value.code == boxed.value.code
    return boxed.value.code


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("mesh.obj", "w") as member,
    ):
        for _ in range(64):
            member.write(bytes(2**20))
    return buffer.getvalue()


def billion_laughs_3mf() -> bytes:
    entities = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10)
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("3D/3dmodel.model", f"<!DOCTYPE m [{entities}]><model>&a9;</model>")
    return buffer.getvalue()


def ply_claiming(vertices: int, faces: int) -> bytes:
    return (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    ).encode() + bytes(24)


def glb(document: dict[str, Any], payload: bytes = b"") -> bytes:
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text
    if payload:
        body += struct.pack("<II", len(payload), 0x004E4942) + payload
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def triangle_glb(**changes: Any) -> bytes:
    """Return a GLB of one triangle, some of its parts exchanged."""
    payload = np.eye(3, dtype="<f4").tobytes()
    document = {
        "asset": {"version": "2.0"},
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"byteLength": 36}],
        **changes,
    }
    return glb(document, payload)


HOSTILE = {
    "zip bomb": ("a.obj", zip_bomb(), "mesh_file.archive"),
    "billion laughs 3MF": ("a.3mf", billion_laughs_3mf(), "mesh_file.archive"),
    "external entity": (
        "a.dae",
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><COLLADA/>',
        "mesh_file.unsupported_format",
    ),
    "STL of 2**32 - 1 triangles": (
        "a.stl", bytes(80) + b"\xff" * 4 + bytes(50), "mesh_file.lying_header"),
    "PLY of 2e9 vertices": ("a.ply", ply_claiming(2_000_000_000, 1), "mesh_file.lying_header"),
    "PLY of 2e9 faces": ("a.ply", ply_claiming(2, 2_000_000_000), "mesh_file.lying_header"),
    "PLY of 1e17 vertices": ("a.ply", ply_claiming(10**17, 10**17), "mesh_file.lying_header"),
    "OFF over a GiB": ("a.off", b"OFF\n90000000 180000000 0\n0 0 0\n", "mesh_file.lying_header"),
    "PLY with a list of 2**32 - 1": (
        "a.ply",
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n"
        b"property float y\nproperty float z\nelement face 1\n"
        b"property list uint uchar vertex_indices\nend_header\n" + bytes(12) + b"\xff" * 4,
        "mesh_file.truncated",
    ),
    "glTF buffer outside": (
        "a.glb", triangle_glb(buffers=[{"byteLength": 36, "uri": "../secret.bin"}]),
        "mesh_file.external_reference"),
    "glTF buffer as data": (
        "a.glb", triangle_glb(buffers=[{"byteLength": 36, "uri": "data:;base64,AAAA"}]),
        "mesh_file.external_reference"),
    "text glTF with buffer outside": (
        "a.gltf", b'{"buffers": [{"uri": "../secret.bin", "byteLength": 9}]}',
        "mesh_file.unsupported_format"),
    "glTF accessor of 2e9 without data": (
        "a.glb",
        triangle_glb(accessors=[{"componentType": 5126, "count": 2 * 10**9, "type": "VEC3"}]),
        "mesh_file.unsupported_format"),
    "glTF accessor past its view": (
        "a.glb",
        triangle_glb(accessors=[
            {"bufferView": 0, "componentType": 5126, "count": 10**12, "type": "VEC3"}]),
        "mesh_file.lying_header"),
    "glTF view past the data": (
        "a.glb", triangle_glb(bufferViews=[{"buffer": 0, "byteOffset": 8, "byteLength": 36}]),
        "mesh_file.truncated"),
    "glTF stride of zero bytes": (
        "a.glb", triangle_glb(bufferViews=[{"buffer": 0, "byteLength": 36, "byteStride": 4}]),
        "mesh_file.bad_structure"),
    "glTF node that is its own child": (
        "a.glb", triangle_glb(nodes=[{"children": [0], "mesh": 0}], scenes=[{"nodes": [0]}]),
        "mesh_file.bad_structure"),
    "glTF tree whose branches meet": (
        "a.glb",
        triangle_glb(nodes=[{"children": [i + 1, i + 1]} for i in range(40)] + [{"mesh": 0}]),
        "mesh_file.bad_structure"),
    "glTF nested deeply": (
        "a.glb", triangle_glb(nodes=[{"children": [i + 1]} for i in range(999)] + [{"mesh": 0}]),
        "mesh_file.bad_structure"),
    "JSON nested deeply": (
        "a.glb",
        b"glTF" + struct.pack("<IIII", 2, 20 + 200_000, 200_000, 0x4E4F534A) + b"[" * 200_000,
        "mesh_file.bad_structure"),
    "python pickle": ("a.obj", b"\x80\x04\x95" + bytes(20), "mesh_file.not_a_mesh"),
    "numpy object array": ("a.ply", b"\x93NUMPY\x01\x00v\x00", "mesh_file.not_a_mesh"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_content(name: str, tmp_path: Path) -> None:
    file_name, content, code = HOSTILE[name]
    path = tmp_path / file_name
    path.write_bytes(content)
    assert refused(path) == code


def test_the_harmless_triangle_is_read() -> None:
    assert parse_bytes(triangle_glb(), ".glb").faces.tolist() == [[0, 1, 2]]


def test_many_instances_count_towards_the_limit() -> None:
    from geo3d.mesh.mesh import Limits

    nodes = [{"mesh": 0} for _ in range(200)]
    data = triangle_glb(nodes=nodes)
    assert len(parse_bytes(data, ".glb").faces) == 200
    with pytest.raises(InputError) as caught:
        parse_bytes(data, ".glb", Limits(max_faces=199))
    assert caught.value.code == "mesh_file.too_many_faces"


def test_images_in_a_glb_are_never_decoded() -> None:
    textured = triangle_glb(
        images=[{"bufferView": 0, "mimeType": "image/png"}],
        textures=[{"source": 0}],
        materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
    )
    assert len(parse_bytes(textured, ".glb").faces) == 1


def test_obj_material_outside_the_folder_is_not_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mtl"
    os.mkfifo(secret)  # opening it would wait for ever
    folder = tmp_path / "upload"
    folder.mkdir()
    path = folder / "mesh.obj"
    path.write_bytes(b"mtllib ../secret.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl x\nf 1 2 3\n")
    assert load_untrusted(path).n_faces == 1
    assert read_raw(path).vertex_colors is None


@pytest.mark.parametrize("way", ["fifo", "folder", "device", "zero device", "socket"])
def test_what_is_not_a_file_is_refused_without_waiting(way: str, tmp_path: Path) -> None:
    import socket

    path = tmp_path / "mesh.obj"
    if way == "fifo":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    elif way == "socket":
        # Socket names are short on most systems, temporary folders are not.
        os.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("s")
        path = tmp_path / "s"
    else:
        path = Path("/dev/tty" if way == "device" else "/dev/zero")
    assert refused(path) == "mesh_file.not_a_file"


def test_links_are_refused_from_strangers_only(tmp_path: Path) -> None:
    target = save_mesh(icosphere(1), tmp_path / "mesh.off")
    link = tmp_path / "link.off"
    link.symlink_to(target)
    assert len(read_raw(link).faces) == 80
    with pytest.raises(InputError) as caught:
        load_untrusted(link)
    assert caught.value.code == "mesh_file.not_a_file"
    device = tmp_path / "zero.off"
    device.symlink_to("/dev/zero")
    assert refused(device) == "mesh_file.not_a_file"


@linux_only
def test_a_memory_bomb_dies_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import psutil

    bomb = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from geo3d.mesh import sandbox_child\n"
        "def read(data, suffix, limits):\n"
        "    kept = []\n"
        "    while True: kept.append(b'x' * 2**26)\n"
        "sandbox_child.parse_bytes = read\n"
        "sandbox_child.main()\n"
    )
    monkeypatch.setattr(sandbox, "_BOOT", bomb)
    path = save_mesh(icosphere(1), tmp_path / "mesh.off")
    before = psutil.Process().memory_info().rss
    with pytest.raises(InputError) as caught:
        load_untrusted(path)
    assert caught.value.code == "mesh_file.out_of_memory"
    assert psutil.Process().memory_info().rss - before < 300 * 2**20


@linux_only
def test_reading_the_largest_claims_allocates_nothing(tmp_path: Path) -> None:
    """A process that may map 700 MB in all refuses headers that claim GiBs, by code."""
    script = (
        "import sys, resource; sys.path.insert(0, sys.argv[1])\n"
        "from geo3d.mesh.io import parse_bytes\n"
        "from geo3d.errors import FileFormatError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (700 * 2**20, 700 * 2**20))\n"
        "for path in sys.argv[2:]:\n"
        "    try: parse_bytes(open(path, 'rb').read(), path[-3:])\n"
        "    except FileFormatError as error: print(error.code)\n"
    )
    paths = []
    for i, name in enumerate(HOSTILE):
        if "PLY" in name or "STL" in name or "OFF" in name:
            file_name, content, _ = HOSTILE[name]
            paths.append(tmp_path / f"{i}{file_name}")
            paths[-1].write_bytes(content)
    run = subprocess.run([sys.executable, "-c", script, ROOT, *map(str, paths)],
                         env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, capture_output=True,
                         text=True, check=True)  # fmt: skip
    assert set(run.stdout.split()) == {"mesh_file.lying_header", "mesh_file.truncated"}
    assert len(run.stdout.split()) == len(paths)


def test_a_glb_cannot_smuggle_other_sections_past_the_guard() -> None:
    from geo3d.mesh.formats.glb_guard import guarded_glb
    from geo3d.mesh.mesh import Limits

    data = write_glb(icosphere(1))
    at = data.index(b'"asset"')
    evil = b'"extensionsUsed":["KHR_evil"],"cameras":[{"uri":"http://x"}],'
    size = struct.unpack_from("<I", data, 12)[0]
    text = data[20:at] + evil + data[at : 20 + size]
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + data[20 + size :]
    guarded, _ = guarded_glb(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body, Limits())
    assert b"evil" not in guarded
    assert b"http" not in guarded
