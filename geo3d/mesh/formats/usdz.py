"""USDZ: a mesh with the colours of its vertices, as one USD layer in an uncompressed zip archive.

The layer is text (``.usda``), y up, in metres.  A surface shader reads the colours; programs
without shaders find them as ``displayColor``.
Source: Pixar, the USDZ file format specification: stored entries, data at multiples of 64 bytes.
"""

from __future__ import annotations

import io
import zipfile

import numpy as np

from geo3d.mesh.mesh import Mesh

_ALIGN = 64
_HEADER = 30
"""Bytes of a zip entry's header before its name."""
_SHADER = """
    def Material "Matt"
    {
        token outputs:surface.connect = </Scene/Matt/Surface.outputs:surface>
        def Shader "Surface"
        {
            uniform token info:id = "UsdPreviewSurface"
            color3f inputs:diffuseColor.connect = </Scene/Matt/Colours.outputs:result>
            float inputs:roughness = 0.75
            float inputs:metallic = 0
            token outputs:surface
        }
        def Shader "Colours"
        {
            uniform token info:id = "UsdPrimvarReader_float3"
            string inputs:varname = "displayColor"
            float3 inputs:fallback = (0.6, 0.6, 0.6)
            float3 outputs:result
        }
    }
"""


def write_usdz(mesh: Mesh) -> bytes:
    """Return the mesh as a USDZ archive; colours become linear light."""
    name, layer = b"scene.usda", _layer(mesh).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        entry = zipfile.ZipInfo(name.decode(), (1980, 1, 1, 0, 0, 0))
        # an extra field of the specification's own moves the data to where it may begin
        spare = -(_HEADER + len(name) + 4) % _ALIGN
        entry.extra = (0x1986).to_bytes(2, "little") + spare.to_bytes(2, "little") + bytes(spare)
        archive.writestr(entry, layer)
    return out.getvalue()


def _layer(mesh: Mesh) -> str:
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    colours = ""
    if mesh.vertex_colors is not None:
        shares = mesh.vertex_colors / 255.0
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        colours = (
            f"        color3f[] primvars:displayColor = [{_triples(linear, 4)}] (\n"
            '            interpolation = "vertex"\n        )\n'
        )
    return (
        '#usda 1.0\n(\n    defaultPrim = "Scene"\n    metersPerUnit = 1\n    upAxis = "Y"\n)\n\n'
        'def Xform "Scene" (\n    kind = "component"\n)\n{\n    def Mesh "Mesh" (\n'
        '        prepend apiSchemas = ["MaterialBindingAPI"]\n    )\n    {\n'
        "        uniform bool doubleSided = 1\n"
        '        uniform token subdivisionScheme = "none"\n'
        f"        float3[] extent = [{_triples(np.stack([low, high]), 4)}]\n"
        f"        int[] faceVertexCounts = [{', '.join(['3'] * mesh.n_faces)}]\n"
        f"        int[] faceVertexIndices = [{', '.join(map(str, mesh.faces.ravel().tolist()))}]\n"
        f"        point3f[] points = [{_triples(mesh.vertices, 4)}]\n{colours}"
        f"        rel material:binding = </Scene/Matt>\n    }}\n{_SHADER}}}\n"
    )


def _triples(values: np.ndarray, decimals: int) -> str:
    return ", ".join(
        f"({x:.{decimals}f}, {y:.{decimals}f}, {z:.{decimals}f})" for x, y, z in values.tolist()
    )
