"""Videos of cameras: H.264 or AV1 in MP4, whose frames are shown when they were logged."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from ros_to_parquet.contract import VideoCodec
from ros_to_parquet.memory import readable
from ros_to_parquet.picture_files import PictureFiles
from ros_to_parquet.storage.local import local_errors

Pixels = npt.NDArray[np.uint8]

_TICK: Final = Fraction(1, 1_000_000)
"""What times of frames are counted in: seconds."""

_TICK_NS: Final = 1000

_KEY_FRAMES: Final = 30
"""Frames from one that can be shown without others to the next: what a seek decodes at most."""

_BT601: Final = 6
_LIMITED: Final = 1
"""FFmpeg's numbers of a colour space (SMPTE 170M) and a range of levels."""

_LEAST_SIDE: Final = 64
"""Pixels; what the encoders take. Smaller frames, and those of odd sides, are continued at the edge."""


@dataclass(frozen=True, slots=True)
class _Encoder:
    """``pixel_bytes`` and ``fixed_bytes`` are what it takes of memory, measured and rounded up.

    Attributes:
        most: the widest and the highest frame that it takes, in pixels.
    """

    name: str
    options: dict[str, str]
    pixel_bytes: int
    fixed_bytes: int
    most: tuple[int, int]

    def memory_bytes(self, width: int, height: int) -> int:
        return self.fixed_bytes + self.pixel_bytes * width * height


_ENCODERS: Final = {
    VideoCodec.H264: _Encoder(
        "libx264",
        # Nothing is looked ahead at, which is most of what the encoder would hold.
        {"preset": "veryfast", "tune": "zerolatency", "crf": "23", "threads": "2"},
        pixel_bytes=28,
        fixed_bytes=3 << 20,
        most=(16_384, 16_384),
    ),
    VideoCodec.AV1: _Encoder(
        "libsvtav1",
        {"preset": "10", "crf": "35", "svtav1-params": "lp=1:pred-struct=1"},
        pixel_bytes=36,
        fixed_bytes=8 << 20,
        most=(16_384, 8_704),
    ),
}


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """Where a picture is: the ``number``-th frame (from 0), shown ``time_ns`` after the first."""

    path: str
    number: int
    time_ns: int


@dataclass(slots=True, eq=False)
class _Video:
    """One file in the making, on scratch disk; it has no name there, and goes when the process does."""

    owner: Hashable
    path: str
    encoder: _Encoder
    width: int
    height: int
    first_ns: int
    frames: int = 0
    last_tick: int = -1
    file: BinaryIO = field(init=False)
    container: Any = field(init=False)
    stream: Any = field(init=False)

    def __post_init__(self) -> None:
        import av

        os.environ.setdefault("SVT_LOG", "1")  # or SVT-AV1 tells all it does
        with local_errors(tempfile.gettempdir()):
            self.file = tempfile.TemporaryFile(prefix="ros-to-parquet-")  # noqa: SIM115 (closed by close)
        self.container = av.open(self.file, "w", format="mp4")
        stream = self.container.add_stream(
            self.encoder.name, options={**self.encoder.options, "g": str(_KEY_FRAMES)}
        )
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
        # What frames are converted by; players would guess another one where they are large.
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED
        stream.time_base = stream.codec_context.time_base = _TICK
        stream.codec_context.framerate = Fraction(30)  # for the encoder's guesses; frames have their times
        self.stream = stream

    def add(self, pixels: Pixels, log_time_ns: int) -> VideoFrame:
        import av

        # Of two frames of one time, or one that comes late, the second is shown right after the first.
        tick = max((log_time_ns - self.first_ns) // _TICK_NS, self.last_tick + 1)
        frame = av.VideoFrame.from_ndarray(_continued(pixels, self.width, self.height), format="rgb24")
        frame.pts, frame.time_base = tick, _TICK
        with nullcontext() if self.frames else _scheduled_as_before():  # the first one opens the encoder
            self.container.mux(self.stream.encode(frame))
        self.last_tick = tick
        self.frames += 1
        return VideoFrame(self.path, self.frames - 1, tick * _TICK_NS)

    def finish(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()


@contextmanager
def _scheduled_as_before() -> Iterator[None]:
    """Threads that are real-time at its end are scheduled as the caller was at its beginning.

    SVT-AV1 does that, where it may (as root), to its threads and to whoever calls it: from then on they,
    and all that the process starts, would run before everything else on the machine.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in (int(entry.name) for entry in Path("/proc/self/task").iterdir()):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                if os.sched_getscheduler(thread) in (os.SCHED_FIFO, os.SCHED_RR):
                    os.sched_setscheduler(thread, policy, parameters)


def _continued(pixels: Pixels, width: int, height: int) -> Pixels:
    added = (height - pixels.shape[0], width - pixels.shape[1])
    if not any(added):
        return pixels
    return np.pad(pixels, ((0, added[0]), (0, added[1]), (0, 0)), mode="edge")


def _side(pixels: int) -> int:
    return max(_LEAST_SIDE, pixels + pixels % 2)


class Videos:
    """A shard's videos: one for each camera and size of frame. Encoders take ``memory_bytes`` together."""

    def __init__(self, files: PictureFiles, *, memory_bytes: int, limit_bytes: int) -> None:
        self._files = files
        self._memory_bytes = memory_bytes
        self._limit_bytes = limit_bytes
        self._taken_bytes = 0
        self._open: dict[Hashable, _Video] = {}

    def problem(self, camera: Hashable, codec: VideoCodec, width: int, height: int) -> str:
        """Why there can be no video of frames of this size, and what to do; empty where there can."""
        most = _ENCODERS[codec].most
        if width > most[0] or height > most[1]:
            return (
                f"{width:,} by {height:,} pixels are too many for a video in {codec} ({most[0]:,} by "
                f"{most[1]:,}): have pictures made smaller"
            )
        needed = self._taken_bytes + _ENCODERS[codec].memory_bytes(_side(width), _side(height))
        if (camera, width, height) in self._open or needed <= self._memory_bytes:
            return ""
        return (
            f"encoders of videos would take {needed:,} bytes, more than {self._memory_bytes:,} of the memory "
            "limit: have pictures made smaller, or raise --memory-limit to "
            f"{readable(needed * self._limit_bytes // self._memory_bytes)}"
        )

    def add(
        self,
        camera: Hashable,
        codec: VideoCodec,
        pixels: Pixels,
        *,
        owner: Hashable,
        table: str,
        log_time_ns: int,
    ) -> VideoFrame:
        """Appends a frame, RGB of shape (height, width, 3), for which `problem` says that there is room."""
        height, width, _ = pixels.shape
        video = self._open.get((camera, width, height))
        if video is None:
            path = self._files.name(table, log_time_ns, "mp4")
            video = _Video(owner, path, _ENCODERS[codec], _side(width), _side(height), log_time_ns)
            self._open[camera, width, height] = video
            self._taken_bytes += video.encoder.memory_bytes(video.width, video.height)
        return video.add(pixels, log_time_ns)

    def finish(self) -> None:
        """Ends all videos and puts them where their paths say."""
        for video in self._open.values():
            video.finish()
            self._files.put_file(video.owner, video.path, video.file)
            video.file.close()
        self._open.clear()

    def close(self) -> None:
        """Gives up those that are not finished."""
        if not self._open:
            return
        import av

        for video in self._open.values():
            # What gave them up, a full disk for one, hinders this too.
            with suppress(OSError, av.FFmpegError):
                video.container.close()
            video.file.close()
        self._open.clear()
