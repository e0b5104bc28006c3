"""Clips made on the spot, whole and damaged, and a server on the loopback that behaves badly when asked to."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Clip = Callable[..., Path]


@pytest.fixture(scope="session")
def scene() -> Callable[..., Image]:
    """A picture of colour ramps that move from frame to frame, with as much noise as asked for."""

    def paint(index: int, height: int = 64, width: int = 96, noise: int = 0) -> Image:
        rows, columns = np.indices((height, width))
        channels = [columns * 2 + 4 * index, rows * 3, 255 - columns - rows + 2 * index]
        grain = np.random.default_rng(index).integers(-noise, noise + 1, (height, width, 3))
        return (np.abs((np.stack(channels, -1) % 510) - 255) + grain).clip(0, 255).astype(np.uint8)

    return paint


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, scene: Callable[..., Image]) -> Clip:
    """Encodes the scene: ``clip(".mp4", "libx264", "yuv420p", frames=30, size=(64, 96), ...)`` gives a path.

    ``coder`` are options of the encoder, ``container`` of the muxer, ``first`` is the first frame's time in frames. The
    same arguments give the same file.
    """
    made: dict[Any, Path] = {}
    folder = tmp_path_factory.mktemp("clips")

    def encode(
        suffix: str = ".mp4",
        codec: str = "libx264",
        pixels: str = "yuv420p",
        *,
        frames: int = 30,
        size: tuple[int, int] = (64, 96),
        noise: int = 0,
        coder: tuple[tuple[str, str], ...] = (),
        container: tuple[tuple[str, str], ...] = (),
        first: int = 0,
    ) -> Path:
        key = (suffix, codec, pixels, frames, size, noise, coder, container, first)
        if key in made:
            return made[key]
        path = made[key] = folder / f"{len(made)}{suffix}"
        with av.open(str(path), "w", options=dict(container)) as file:
            # One thread, since the bytes may differ with their number.
            stream: Any = file.add_stream(codec, rate=25, options={"threads": "1", **dict(coder)})
            stream.height, stream.width, stream.pix_fmt = *size, pixels
            for index in range(frames):
                picture = av.VideoFrame.from_ndarray(scene(index, *size, noise), format="rgb24")
                frame = picture.reformat(format=pixels)
                frame.pts, frame.time_base = first + index, Fraction(1, 25)
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return path

    return encode


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of silence."""
    path = tmp_path_factory.mktemp("sound") / "silence.wav"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        file.mux(stream.encode(samples))
        file.mux(stream.encode(None))
    return path


@pytest.fixture
def garbled(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a file with ``count`` random bytes from the share ``where`` of its length on."""

    def garble(path: Path, where: float, count: int = 600) -> Path:
        data = bytearray(path.read_bytes())
        start = int(len(data) * where)
        data[start : start + count] = random.Random(1).randbytes(count)
        copy = tmp_path / f"garbled{path.suffix}"
        copy.write_bytes(data)
        return copy

    return garble


@pytest.fixture
def cut(tmp_path: Path) -> Callable[[Path, float], Path]:
    """A copy of the first ``share`` of a file."""

    def cut_off(path: Path, share: float) -> Path:
        copy = tmp_path / f"cut{path.suffix}"
        copy.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        return copy

    return cut_off


class Server:
    """Serves files at ``/how/name``; ``how`` says how far it gets with that.

    ``whole``; ``half`` (then the connection breaks); ``stall`` (half, then nothing until ``goes_on`` is set);
    ``silent`` (nothing at all until then); ``garbage`` (random bytes from the middle on); ``once``, ``twice`` (whole so
    many times, then not found).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.goes_on = threading.Event()
        self.stalls = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Answer, self))
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def address(self, how: str, path: Path) -> str:
        """Where to find a file."""
        self.files[path.name] = path.read_bytes()
        return f"http://127.0.0.1:{self._server.server_port}/{how}/{path.name}"

    def close(self) -> None:
        """Let go of everything that hangs."""
        self.goes_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Answer(BaseHTTPRequestHandler):
    def __init__(self, site: Server, *arguments: Any) -> None:
        self.site = site
        super().__init__(*arguments)

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        _, how, name = self.path.split("/")
        self.site.asked.append(how)
        data, half = self.site.files.get(name, b""), len(self.site.files.get(name, b"")) // 2
        times = {"once": 1, "twice": 2}.get(how, 1000)
        if not data or self.site.asked.count(how) > times:
            self.send_error(404)
            return
        with suppress(ConnectionError):
            if how == "silent":
                self.site.goes_on.wait()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if how == "garbage":
                data = data[:half] + random.Random(2).randbytes(len(data) - half)
            self.wfile.write(data[:half] if how in ("half", "stall") else data)
            if how == "stall":
                self.wfile.flush()
                self.site.stalls.set()
                self.site.goes_on.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    site = Server()
    yield site
    site.close()
