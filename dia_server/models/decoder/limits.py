"""What the decoding process may take of the machine, where the platform can hold it to that."""

from __future__ import annotations

import sys
from pathlib import Path

# A minute of sound makes the process grow by a megabyte; a bomb wants gigabytes.
ROOM_BYTES = 1_073_741_824
# A minute of mp3 takes a tenth of a second.
TASK_CPU_SECONDS = 30

if sys.platform == "linux":
    import resource

    def limit_memory() -> None:
        """Let the process grow by `ROOM_BYTES` at most from here on."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + ROOM_BYTES)

    def limit_cpu() -> None:
        """Give the task that begins `TASK_CPU_SECONDS` of the processor; one that takes more ends the process."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + TASK_CPU_SECONDS)

    def _lower(limit: int, value: int) -> None:
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))

else:

    def limit_memory() -> None:
        """Nothing: this platform has no such limit."""

    def limit_cpu() -> None:
        """Nothing either."""
