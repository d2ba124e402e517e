"""Servers and workers over one home, each of which can be killed, stopped and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from conftest import START_SECONDS, Server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Fleet:
    """Processes by name; all are gone after the block."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.commands: dict[str, list[str]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        """Start a command of dia-server, or the one that the name had before; returns before it is up."""
        self.commands.setdefault(name, list(command))
        arguments = [sys.executable, "-m", "dia_server", *self.commands[name], "--home", str(self.home)]
        with self.log_of(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(arguments, stdout=log, stderr=log)

    def log_of(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_of(name).read_text(encoding="utf-8")

    def kill(self, name: str) -> None:
        """The process and all that it has started, at once."""
        process = self.processes[name]
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            if member.is_running():
                member.kill()
        process.wait()

    def revive(self) -> None:
        """Start again what has ended by itself, as its supervisor would: nothing starts while the database is away."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                self.start(name)

    def end(self, name: str) -> int:
        """Ask it to end; its exit status."""
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(timeout=START_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                self.kill(name)


class Address(Server):
    """A server of a fleet, to talk to."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{port}"
        self.headers: dict[str, Any] = {}
