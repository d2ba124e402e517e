"""Who a runner is: a name that it has again after a restart, the machine that it is on, and the home that it uses."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from dia_server.errors import SettingsError
from dia_server.files import temporary

# Not in the cache, which may be deleted at any time.
FOLDER = "runners"
# What names the machine: the kernel's own id of this boot is the same in all its containers.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def name_for(role: str, home: Path, *, alone: bool = False) -> Iterator[str]:
    """The first name of a role that no other process has, such as `ada/worker_2`; taken until the block ends.

    The lock goes with its process, however that ends. It only spares a restart the wait for leases: two runners of one
    name harm nobody, since each lease has its own token.

    Raises:
        SettingsError: the role is to be filled once, and is.
    """
    folder = home / FOLDER
    folder.mkdir(exist_ok=True)
    host = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in platform.node())[:60] or "host"
    for number in count(1):
        name = f"{role}_{number}"
        lock = FileLock(folder / f"{host}.{name}.lock", blocking=False)
        if not _take(lock):
            if alone:
                raise SettingsError(
                    f"Another dia-server serves {home} already. Stop it, choose another --home, or let several servers "
                    "share PostgreSQL by database_url; `dia-server worker` adds workers to a running server"
                )
            continue
        try:
            yield f"{host}/{name}"
        finally:
            lock.release()
        return


def _take(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def home_id(home: Path) -> str:
    """Tells this home from others, from wherever it is seen; drawn when it is first asked for.

    Raises:
        SettingsError: its file says something else.
    """
    file = home / FOLDER / "home_id"
    file.parent.mkdir(exist_ok=True)
    if not file.exists():
        with temporary(file.parent) as (new, path):
            new.write(str(uuid.uuid4()).encode())
            new.flush()
            path.chmod(0o644)
            with suppress(FileExistsError):  # another process was first
                os.link(path, file)
    try:
        return str(uuid.UUID(file.read_text(encoding="ascii").strip()))
    except ValueError:
        raise SettingsError(f"{file} is damaged; stop all that use this home, and delete it") from None


@cache
def machine_id() -> str:
    """Tells this machine from others that may see the same files."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return f"{uuid.getnode():012x}"
