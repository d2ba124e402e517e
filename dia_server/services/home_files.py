"""Files of the home that clients name by their paths: inside the folders that are for that, or refused."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dia_server.errors import BadInput
from dia_server.files import replacing

INPUTS = ("examples", "audio_prompts", "tasks", "datasets")
OUTPUTS = ("tasks", "outputs")
WAV = ".wav"
# What file systems take; in a folder that is not there yet they can't be asked.
_NAME_BYTES = 255
# Far less than they take of a whole path, the home's own included.
_PATH_BYTES = 512
# What the server writes there itself: results of jobs, and saved clips.
_OWN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\..*|\d{8}-\d{6}-[0-9a-f]{8}\..*", re.IGNORECASE)


def read_input(home: Path, path: str, most_bytes: int, field: str) -> bytes:
    """What a file in one of `INPUTS` holds; `field` is what the client calls it, for errors.

    Raises:
        BadInput: it lies elsewhere, is no regular file, or is larger than allowed; nothing was read of it.
        OSError: it is not there, or can't be read.
    """
    _check_folder(path, INPUTS, field)
    roots = [os.path.realpath(home / name) for name in INPUTS]
    # Links may lead from one place in the folders to another; from here on there must be none.
    real = os.path.realpath(home / path)
    root = next((root for root in roots if real.startswith(f"{root}{os.sep}")), None)
    if root is None:
        raise _leads_out(path, field)
    try:
        with _opened(root, PurePosixPath(os.path.relpath(real, root)), path, field) as descriptor:
            size = os.fstat(descriptor).st_size
            # It may grow while it is read.
            data = b"" if size > most_bytes else _read(descriptor, most_bytes + 1)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _leads_out(path, field) from None
        raise
    if max(size, len(data)) > most_bytes:
        raise BadInput(f"'{field}': '{_shown(path)}' is larger than the {most_bytes} bytes of an upload", param=field)
    return data


def check_output(home: Path, path: str, field: str) -> None:
    """Whether a client may have a wav file written to a path.

    Raises:
        BadInput: it may not.
    """
    if not path.endswith(WAV):
        raise BadInput(f"'{field}' must end in {WAV}", param=field)
    _check_folder(path, OUTPUTS, field)
    if not path.isprintable():
        raise BadInput(f"'{field}': '{_shown(path)}' has characters that can't be printed", param=field)
    name, target = PurePosixPath(path).name, home / path
    if name.startswith(".") or _OWN.fullmatch(name):
        raise BadInput(f"'{field}': '{_shown(path)}' is a name of the server's own; choose another", param=field)
    if len(path.encode()) > _PATH_BYTES:
        raise BadInput(f"'{field}' is a path of more than {_PATH_BYTES} bytes", param=field)
    if any(len(part.encode()) > _NAME_BYTES for part in PurePosixPath(path).parts):
        raise BadInput(f"'{field}': '{_shown(path)}' has a name of more than {_NAME_BYTES} bytes", param=field)
    roots = [os.path.realpath(home / folder) for folder in OUTPUTS]
    folder = os.path.realpath(target.parent)
    if not f"{folder}{os.sep}".startswith(tuple(f"{root}{os.sep}" for root in roots)):
        raise _leads_out(path, field)
    try:
        is_folder = target.is_dir()
    except OSError as error:
        raise BadInput(f"'{field}': '{_shown(path)}' can't be written: {error.strerror}", param=field) from None
    if is_folder:
        raise BadInput(f"'{field}': '{_shown(path)}' is a folder", param=field)


def write_output(home: Path, path: str, field: str, source: Path) -> None:
    """Write a copy of a file to a path that was checked, which is there whole or not at all.

    Raises:
        BadInput: the path can't be written to any more.
        OSError: the disk is full.
    """
    check_output(home, path, field)
    target = home / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file, source.open("rb") as original:
            while block := original.read(1_048_576):
                file.write(block)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(f"'{field}': '{_shown(path)}' can't be written: {error.strerror}", param=field) from None


def _check_folder(path: str, folders: tuple[str, ...], field: str) -> None:
    parts = PurePosixPath(path).parts
    if "\0" in path or ".." in parts or len(parts) <= 1 or parts[0] not in folders:
        allowed = ", ".join(f"{folder}/" for folder in folders)
        raise BadInput(f"'{field}': '{_shown(path)}' is no path in {allowed}", param=field)


@contextmanager
def _opened(root: str, inner: PurePosixPath, path: str, field: str) -> Iterator[int]:
    """The descriptor of a regular file below `root`, reached through no link."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in inner.parts[:-1]:
            deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = deeper
        # To open a device may do something already, and to open a pipe may wait.
        _check_regular(os.stat(inner.name, dir_fd=folder, follow_symlinks=False), path, field)
        descriptor = os.open(inner.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        _check_regular(os.fstat(descriptor), path, field)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_regular(status: os.stat_result, path: str, field: str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _leads_out(path, field)
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"'{field}': '{_shown(path)}' is no file that holds a recording", param=field)


def _read(descriptor: int, most_bytes: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(most_bytes)


def _leads_out(path: str, field: str) -> BadInput:
    return BadInput(f"'{field}': '{_shown(path)}' leads out of its folder", param=field)


def _shown(path: str) -> str:
    return path[:200]
