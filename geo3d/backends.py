"""Optional libraries and devices: what is here, what is missing, why, and how to get it.

torch on the CPU is the reference for everything; whatever is listed here makes something faster,
prettier or possible, and nothing here is needed to install, to import or to run a small job.
Presence is read from package metadata, without importing, except where a library has a known way
of being installed and unusable.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from geo3d import __version__
from geo3d.errors import BackendUnavailable, ConfigError
from geo3d.files import asset_roots, cache_dir
from geo3d.threads import usable_cores


class Availability(NamedTuple):
    """Whether a backend can be used; the reason if not, and what to do about it."""

    is_available: bool
    version: str
    reason: str
    install_line: str


@dataclass(frozen=True)
class Backend:
    """One optional library or device."""

    purpose: str
    """What it is for, a short phrase."""
    install_line: str
    """The command or step that brings it."""
    distribution: str = ""
    """Name of the installed package; empty for a device or program."""
    module: str = ""
    """Name to import; empty for a device or program."""
    probe: Callable[[], str] | None = None
    """A further check: returns the version or raises with the reason.  May be slow."""


def _probe_cuda() -> str:
    from geo3d.device import why_not_cuda

    _refuse(why_not_cuda())
    return f"{_torch().version.cuda or 'ROCm'} {_torch().cuda.get_device_name(0)}"


def _probe_mps() -> str:
    from geo3d.device import why_not_mps

    _refuse(why_not_mps())
    return platform.mac_ver()[0]


def _probe_tinycudann() -> str:
    # It raises EnvironmentError on import where CUDA is missing: ask torch before touching it.
    from geo3d.device import why_not_cuda

    _refuse(why_not_cuda())
    return str(getattr(importlib.import_module("tinycudann"), "__version__", ""))


def _probe_import(module: str) -> Callable[[], str]:
    """Return a probe for libraries whose system libraries may be missing: import it and see."""

    def probe() -> str:
        return str(getattr(importlib.import_module(module), "__version__", ""))

    return probe


def _probe_chromium() -> str:
    found = chromium_path()
    _refuse(None if found else "no chromium or chrome program is found")
    return str(found)


def _refuse(reason: str | None) -> None:
    if reason is not None:
        raise RuntimeError(reason)


def _torch() -> Any:
    return importlib.import_module("torch")


_SOURCE = "build it from its authors' source, against the torch installed here"

BACKENDS: Mapping[str, Backend] = {
    "torch": Backend("everything numeric", "pip install torch", "torch", "torch"),
    "cuda": Backend(
        "large jobs on an NVIDIA GPU",
        "install an NVIDIA driver and a CUDA build of torch",
        probe=_probe_cuda,
    ),
    "mps": Backend("jobs on an Apple GPU", "needs a Mac with Apple silicon", probe=_probe_mps),
    "embreex": Backend("ray casting for images", "pip install embreex", "embreex", "embreex"),
    "gradio": Backend(
        "the workbench", "pip install 'gradio>=6.25' 'psutil>=5.9'", "gradio", "gradio"
    ),
    "psutil": Backend(
        "watching the workbench's jobs", "pip install 'psutil>=5.9'", "psutil", "psutil"
    ),
    "libigl": Backend("exact geodesics", "pip install libigl", "libigl", "igl"),
    "open3d": Backend(
        "a second ray caster; Gaussians and point clouds",
        "pip install open3d (Debian also: apt-get install libusb-1.0-0 libgl1)",
        "open3d",
        "open3d",
        _probe_import("open3d"),
    ),
    "pytorch3d": Backend("a GPU rasteriser", _SOURCE, "pytorch3d", "pytorch3d"),
    "nvdiffrast": Backend("a GPU rasteriser", _SOURCE, "nvdiffrast", "nvdiffrast"),
    "tinycudann": Backend(
        "hash grids on an NVIDIA GPU", _SOURCE, "tinycudann", "tinycudann", _probe_tinycudann
    ),
    "warp": Backend("kernels on CPU and GPU", "pip install warp-lang", "warp-lang", "warp"),
    "numba": Backend("kernels on the CPU", "pip install numba", "numba", "numba"),
    "av": Backend("films that browsers play", "pip install av", "av", "av"),
    "pyarrow": Backend(
        "reading tables of recorded drives (Parquet)", "pip install pyarrow", "pyarrow", "pyarrow"
    ),
    "diffusers": Backend(
        "image diffusion teachers", "pip install 'diffusers>=0.38'", "diffusers", "diffusers"
    ),
    "transformers": Backend(
        "image and text encoders", "pip install transformers", "transformers", "transformers"
    ),
    "accelerate": Backend(
        "training on several devices",
        "pip install accelerate",
        "accelerate",
        "accelerate",
    ),
    "submitit": Backend(
        "batches on a Slurm cluster", "pip install submitit", "submitit", "submitit"
    ),
    "h5py": Backend("reading Dynamic FAUST", "pip install h5py", "h5py", "h5py"),
    "pyfmaps": Backend(
        "the library `geo3d bench` compares with", "pip install pyfmaps", "pyfmaps", "pyFM"
    ),
    "opencv": Backend(
        "cutting objects out of photographs",
        "pip install opencv-python-headless",
        "opencv-python-headless",
        "cv2",
        _probe_import("cv2"),
    ),
    "chromium": Backend(
        "browser tests of the workbench",
        "Debian: apt-get install chromium, or set GEO3D_CHROMIUM to the program",
        probe=_probe_chromium,
    ),
}


def available(name: str) -> Availability:
    """Return whether the backend ``name`` can be used, its version, else the reason and the cure.

    Raises:
        ConfigError: ``backend.unknown``.
    """
    if name not in BACKENDS:
        raise ConfigError(
            "backend.unknown", f"There is no backend {name!r}.", f"Known: {', '.join(BACKENDS)}."
        )
    backend = BACKENDS[name]
    version = ""
    if backend.module:
        if importlib.util.find_spec(backend.module) is None:
            return Availability(False, "", "it is not installed", backend.install_line)
        version = _version(backend.distribution)
    if backend.probe is not None:
        try:
            probed = backend.probe()
            version = version or probed
        except (ImportError, OSError, RuntimeError) as error:
            return Availability(False, version, _reason(error), backend.install_line)
    return Availability(True, version, "", "")


def require(name: str) -> Any:
    """Import and return the module of backend ``name`` (None for a device or program).

    Raises:
        ConfigError: ``backend.unknown``.
        BackendUnavailable: ``backend.unavailable``.
    """
    found = available(name)
    if found.is_available:
        try:
            module = BACKENDS[name].module
            return importlib.import_module(module) if module else None
        except (ImportError, OSError, RuntimeError) as error:
            found = found._replace(reason=_reason(error), install_line=BACKENDS[name].install_line)
    raise BackendUnavailable(
        "backend.unavailable",
        f"{name} ({BACKENDS[name].purpose}) cannot be used: {found.reason}.",
        f"To get it: {found.install_line}.",
    )


def chromium_path() -> Path | None:
    """Return the browser for tests: ``GEO3D_CHROMIUM``, else a program found on the PATH."""
    if chosen := os.environ.get("GEO3D_CHROMIUM"):
        return Path(chosen) if Path(chosen).is_file() else None
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((Path(p) for p in map(shutil.which, names) if p), None)


def doctor_report() -> dict[str, Any]:
    """Return what this machine has: Python, processor, memory, disk, folders, backends."""
    cache = cache_dir()
    usage = shutil.disk_usage(cache)
    backends = {}
    for name, backend in BACKENDS.items():
        found = available(name)
        backends[name] = {**found._asdict(), "purpose": backend.purpose}
    return {
        "geo3d": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "glibc": " ".join(platform.libc_ver()).strip(),
        "cpu_count": usable_cores(),
        "memory_bytes": _memory_bytes(),
        "disk_free_bytes": usage.free,
        "cache_dir": str(cache),
        "assets": [str(root) for root in asset_roots() if root.is_dir()],
        "backends": backends,
    }


def format_report(report: Mapping[str, Any]) -> str:
    """Return the report of `doctor_report` as text for a terminal."""
    lines = [
        f"geo3d {report['geo3d']}, Python {report['python']}, {report['platform']}",
        f"{report['cpu_count']} processors, {_gib(report['memory_bytes'])} memory, "
        f"{_gib(report['disk_free_bytes'])} free for the cache in {report['cache_dir']}",
        f"assets: {', '.join(report['assets']) or 'none found'}",
        "",
    ]
    missing = []
    for name, found in report["backends"].items():
        if found["is_available"]:
            lines.append(f"  ok       {name:<13}{found['version']:<18} {found['purpose']}")
        else:
            missing += [
                f"  missing  {name:<13}{found['purpose']}: {found['reason']}",
                f"           {'':<13}-> {found['install_line']}",
            ]
    return "\n".join([*lines, *missing, "", "Nothing that is missing is needed for a small job."])


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
