"""What only benchmarks need: an environment for each peer, made once in the user's cache folder, and its server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.common import READY_SECONDS, ROOT, Note, is_open, stop

STAMP = "installed"
SHOWN_LINES = 5


def environment(name: str, packages: Sequence[str], note: Note) -> Path:
    """The folder with the programs of an environment, made when it is missing or has other packages.

    What the server has too comes in the server's version, so that both sides of a comparison run on the same libraries.

    Args:
        name: of the environment.
        packages: requirements as pip takes them, with their versions.
        note: is told what pip does.

    Raises:
        RuntimeError: pip failed; the message ends with its last lines.
    """
    programs = find_environment(name, packages)
    if programs is None:
        folder = _folder(name)
        note(f"an environment for {name}, once")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _install(folder, packages, note)
        (folder / STAMP).write_text(_stamp(packages), encoding="utf-8")
        programs = folder / "bin"
    return programs


def find_environment(name: str, packages: Sequence[str]) -> Path | None:
    """The folder with the programs of an environment that is there, whole and with these packages."""
    stamp = _folder(name) / STAMP
    if stamp.exists() and stamp.read_text(encoding="utf-8") == _stamp(packages):
        return stamp.with_name("bin")
    return None


def judge(tools: Path, script: str, clips: Sequence[bytes]) -> np.ndarray:
    """What a script beside this one says of wav files, as JSON, run by the Python of an environment."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.wav" for number in range(len(clips))]
        for file, clip in zip(files, clips, strict=True):
            file.write_bytes(clip)
        # -P, since a benchmark beside the script is called `requests`, as a package is.
        command = [f"{tools}/python", "-P", str(Path(__file__).with_name(script)), *map(str, files)]
        return np.array(json.loads(subprocess.check_output(command)))


@contextmanager
def running_peer(command: Sequence[str], port: int) -> Iterator[int]:
    """A server of somebody else, listening on the port that the command names; its process id."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not is_open(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{' '.join(command)} doesn't start:\n{log.read().decode()[-2000:]}")
                time.sleep(0.05)
            yield process.pid
        finally:
            stop(process)


def _folder(name: str) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "dia-server" / f".venv-{name}"


def _stamp(packages: Sequence[str]) -> str:
    # A virtual environment ends with the Python that it was made from.
    return "\n".join([sys.version, *packages])


def _install(folder: Path, packages: Sequence[str], note: Note) -> None:
    pip = [f"{folder}/bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
    command = [*pip, "--constraint", f"{ROOT}/constraints.txt", *packages]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            note(f"pip: {line.strip()}")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{''.join(lines[-SHOWN_LINES:])}")
