"""A program's process: what it is told, what it says, and its end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Queue
from typing import IO, cast

import msgspec

from dia_server.config_file import ENVIRONMENT_PREFIX
from dia_server.models.program.messages import Order, Said, decode, encode
from dia_server.models.protocol import EngineLost

LEASH = Path(__file__).with_name("leash.py")
# Variables by which our interpreter finds its packages; the program has its own.
OURS = frozenset({"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"})

# Its lines are answers and beats of a hundred bytes.
MAX_LINE_BYTES = 65_536
# Lines that nobody has read yet; then it has to wait.
MAX_LINES = 1_000
# Of what it writes to stderr, the log gets so much a minute.
MAX_LOG_BYTES = 2_000
MAX_LOG_LINES = 200
END_SECONDS = 1.0

log = logging.getLogger(__name__)


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How a program is started: its command, its working directory, and variables besides ours."""

    command: tuple[str, ...]
    folder: Path
    environment: dict[str, str] = {}


class Process:
    """A running program on a leash, which ends with the worker, and with it all that it has started."""

    def __init__(self, launch: Launch) -> None:
        """Start it; `launch.folder` has to be there."""
        self._last_words = ""
        self._lines: Queue[bytes] = Queue(MAX_LINES)
        theirs, ours = os.pipe()
        self._lifeline = os.fdopen(ours, "wb")
        try:
            self._process = subprocess.Popen(  # noqa: S603 - an admin's own, and no shell reads it
                [sys.executable, "-I", str(LEASH), str(theirs), *launch.command],
                cwd=launch.folder,
                env=_environment() | launch.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except OSError:
            self._lifeline.close()
            raise
        finally:
            os.close(theirs)
        self._files = cast(
            tuple[IO[bytes], IO[bytes], IO[bytes]], (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._stdin, stdout, stderr = self._files
        self._threads = [
            threading.Thread(target=self._listen, args=(stdout,), daemon=True),
            threading.Thread(target=self._overhear, args=(stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, order: Order) -> None:
        """Send a line; lost without a word if it is dead, which `hear` tells."""
        with suppress(BrokenPipeError):
            self._stdin.write(encode(order) + b"\n")
            self._stdin.flush()

    @property
    def has_said(self) -> bool:
        """There is something to hear without waiting."""
        return not self._lines.empty()

    def hear(self) -> Said:
        """Wait for its next line, however long that takes: who calls is watched by the pool.

        Raises:
            EngineLost: it has ended, or says what makes no sense.
        """
        line = self._lines.get()
        if not line:
            raise EngineLost(f"the program {self._how_it_ended()}")
        if not line.endswith(b"\n"):
            raise EngineLost(f"the program said a line that is too long or has no end: {_quoted(line)}")
        try:
            return decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise EngineLost(f"the program said what is no answer ({error}): {_quoted(line)}") from None

    def end(self) -> None:
        """Kill it, with all that it has started; once."""
        if self._lifeline.closed:
            return
        self._lifeline.close()
        self._process.wait()
        for thread in self._threads:
            thread.join(END_SECONDS)
        for file in self._files:
            with suppress(OSError):
                file.close()

    def _how_it_ended(self) -> str:
        """In words, with the last ones of its own; what has only stopped to answer is killed."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its stdout"
        # What it wrote before its end is still on the way.
        self._threads[1].join(END_SECONDS)
        words = f"; its last words: {self._last_words}" if self._last_words else ""
        return f"ended with exit status {status}{words}"

    def _listen(self, stdout: IO[bytes]) -> None:
        last = b""
        for line in iter(partial(stdout.readline, MAX_LINE_BYTES), b""):
            # A beat that nobody has heard stands for those after it, or else they would hold up an abandoned order.
            if line != last or self._lines.empty():
                self._lines.put(line)
            last = line
        self._lines.put(b"")

    def _overhear(self, stderr: IO[bytes]) -> None:
        minute, count = 0, 0
        for line in iter(partial(stderr.readline, MAX_LOG_BYTES), b""):
            # A bar that draws itself anew is one line.
            words = line.decode(errors="replace").rstrip().rpartition("\r")[2]
            now = int(time.monotonic() // 60)
            minute, count = now, count + 1 if now == minute else 0
            if words:
                self._last_words = words
            if words and count < MAX_LOG_LINES:
                log.warning("program %d: %s", self._process.pid, words)
            elif count == MAX_LOG_LINES:
                log.warning("program %d: more of its lines are left out until the minute is over", self._process.pid)


def _environment() -> dict[str, str]:
    """Our variables, without those that are ours alone: secrets may be among them."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in OURS and not name.startswith(ENVIRONMENT_PREFIX)
    }


def _quoted(line: bytes) -> str:
    return repr(line[:100].decode(errors="replace"))
