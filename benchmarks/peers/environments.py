"""Peers that need packages of their own: a virtual environment each, and a program in it that runs frame by frame."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import sharedbb as sb
from benchmarks.peers.base import Absent, Work

PROGRAMS = Path(__file__).parent / "programs"
INSTALL_SECONDS, READY_SECONDS, FRAME_SECONDS = 900, 900, 60
END = b""


@dataclass(frozen=True)
class Environment:
    """A folder with a Python of its own, and what is installed there on demand."""

    folder: Path
    packages: Sequence[str]

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def installed(self) -> Path:
        """The interpreter, with everything installed. Raises Absent where that fails or takes too long."""
        done = self.folder / "installed.json"
        if done.is_file() and json.loads(done.read_text()) == list(self.packages):
            return self.python
        steps = (
            [sys.executable, "-m", "venv", str(self.folder)],
            [str(self.python), "-m", "pip", "install", "--quiet", *self.packages],
        )
        for step in steps:
            try:
                subprocess.run(step, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
            except subprocess.TimeoutExpired:
                raise Absent(f"installing it takes more than {INSTALL_SECONDS // 60} minutes") from None
            except subprocess.CalledProcessError as error:
                raise Absent(f"cannot be installed: {last_line(error.stderr)}") from None
        done.write_text(json.dumps(list(self.packages)))
        return self.python


class Program:
    """A program of ``programs/`` that runs: it reads the clip by itself, and takes a frame for every line it is sent.

    It says ``{"ready": ...}`` once, and a line of JSON after each frame. Raises Absent when it ends, or says nothing
    for too long. ``arguments`` begin with a folder for files, where what it says of its errors is kept too.
    """

    def __init__(self, python: Path, name: str, arguments: Sequence[str]) -> None:
        command = [str(python), str(PROGRAMS / f"{name}.py"), *arguments]
        self._errors = Path(arguments[0]) / f"{name}.log"
        with self._errors.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        atexit.register(self.close)
        self._lines: Queue[bytes] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.ready: dict[str, str] = self._answer(READY_SECONDS)["ready"]

    def __call__(self, frame: sb.Frame) -> dict[str, Any]:
        """Let it take the frame of this number; what it says of it."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended: the answer below says why
            self._process.stdin.write(f"{frame.index}\n".encode())
            self._process.stdin.flush()
        return self._answer(FRAME_SECONDS)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _listen(self) -> None:
        """Hand on the lines of JSON, others are what libraries print; nothing after the end."""
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.startswith(b"{"):
                    self._lines.put(line)
        self._lines.put(END)

    def _answer(self, seconds: float) -> dict[str, Any]:
        """The next line of JSON."""
        try:
            line = self._lines.get(timeout=seconds)
        except Empty:
            self.close()
            raise Absent(f"it said nothing for {seconds:.0f} seconds") from None
        if line == END:
            self._lines.put(END)
            self.close()
            raise Absent(last_line(self._errors.read_text(errors="replace")))
        answer: dict[str, Any] = json.loads(line)
        return answer


def program(
    name: str, packages: Sequence[str], files: Callable[[Work], Sequence[Path]] = lambda work: ()
) -> Callable[[Work], Program]:
    """A peer's ``prepare``: the program of this name, in an environment of its name.

    It is given the folder for files, the clip, how many of its frames, and ``files``.
    """

    def prepare(work: Work) -> Program:
        if work.environments is None:
            raise Absent("needs packages of its own: --envs FOLDER installs them there")
        python = Environment(work.environments / name, packages).installed()
        arguments = [work.folder, work.clip, len(work.frames), *files(work)]
        return Program(python, name, [str(one) for one in arguments])

    return prepare


def last_line(text: str) -> str:
    """The last line that says anything: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
