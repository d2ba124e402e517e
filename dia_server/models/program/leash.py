"""Starts a program, and ends it with all that it has started once the worker is gone, whatever ended that.

Run as a script, with the number of an open pipe that ends with the worker, and the program's command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

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
        program = subprocess.Popen(command)  # noqa: S603 - an admin's own, and no shell reads it
    except OSError as error:
        sys.stderr.write(f"can't start {command[0]}: {error.strerror}\n")
        return NOT_STARTED
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
    status = program.wait()
    return SIGNALLED - status if status < 0 else status


def _watch(lifeline: int) -> None:
    """End the whole process group, this process too, when the pipe ends."""
    while os.read(lifeline, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
