"""Starts a program, and ends all that it has started once it or the worker is gone, whatever ended them.

Run as a script, with the number of an open pipe that ends with the worker, and the program's command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

NOT_STARTED = 127
# As shells tell of a signal.
SIGNALLED = 128


def main(lifeline: int, command: list[str]) -> int:
    """Wait for the program; its exit status."""
    # A worker's own are blocked or ignored, which its children inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        # A session of its own, so that what it has started can be ended without this process.
        program = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - an admin's own, no shell reads it
    except OSError as error:
        sys.stderr.write(f"can't start {command[0]}: {error.strerror}\n")
        return NOT_STARTED
    threading.Thread(target=_watch, args=(lifeline, program.pid), daemon=True).start()
    status = program.wait()
    _end(program.pid)
    return SIGNALLED - status if status < 0 else status


def _watch(lifeline: int, group: int) -> None:
    """End the program when the pipe ends."""
    while os.read(lifeline, 1):
        pass
    _end(group)


def _end(group: int) -> None:
    # Those that have ended already, on Linux and on macOS.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
