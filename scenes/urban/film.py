"""The drive as an MP4, where a library that can write one is here.

PyAV writes H.264, which browsers play; OpenCV writes MPEG-4 part 2, which players play and browsers
do not.  Without either there is the GIF.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from geo3d.files import atomic_path


def save_mp4(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]], path: Path, frame_rate: int = 12
) -> str | None:
    """Write a film; return its codec, or None where no library can write one."""
    # the usual form of colours has one value for two pixels
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    even = [np.ascontiguousarray(frame[:height, :width]) for frame in frames]
    if not (height and width):
        return None
    for module, write in (("av", _with_pyav), ("cv2", _with_opencv)):
        if importlib.util.find_spec(module) is not None:
            with atomic_path(path) as temporary:
                codec = write(even, temporary, frame_rate)
            return codec
    return None


def _with_pyav(frames: Sequence[np.ndarray], path: Path, frame_rate: int) -> str:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as film:
        stream = film.add_stream("libx264", rate=frame_rate, options={"crf": "18"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        film.mux(stream.encode())
    return "h264"


def _with_opencv(frames: Sequence[np.ndarray], path: Path, frame_rate: int) -> str:
    import cv2

    height, width = frames[0].shape[:2]
    code = cv2.VideoWriter.fourcc(*"mp4v")
    film = cv2.VideoWriter(str(path), code, float(frame_rate), (width, height))
    for frame in frames:
        film.write(frame[..., ::-1])
    film.release()
    return "mpeg4"
