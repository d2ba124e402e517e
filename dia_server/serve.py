"""The server process: one port, one event loop, one pool; SIGTERM drains it."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import socket
import threading
from contextlib import AsyncExitStack
from math import ceil
from pathlib import Path
from time import monotonic
from types import FrameType

import click
import uvicorn

from dia_server import __version__
from dia_server.config_file import Sources
from dia_server.errors import SettingsError
from dia_server.jobs.instance import name_for
from dia_server.pool.pool import Pool, running_pool
from dia_server.process import allow_connections, share_memory
from dia_server.services.model_names import check_models
from dia_server.settings import Settings

# Answers that outlast the grace get this long to notice that it is over.
LAST_SECONDS = 1
BACKLOG = 2048

BANNER = """\
dia-server {version} listens on {url}

Make it speak:

  curl {url}/v1/audio/speech -H 'Content-Type: application/json' \\
    {key}-d '{{"input": "Hello! This is my own speech server.", "voice": "skylark"}}' -o hello.wav

Routes: {url}/schema    Health: {url}/health    Stop: Ctrl-C
"""


class DrainingServer(uvicorn.Server):
    """A uvicorn server that first lets running work end: new work gets 503 meanwhile, and the port stays open."""

    def __init__(self, config: uvicorn.Config, pool: Pool, settings: Settings, banner: str) -> None:
        super().__init__(config)
        self._pool = pool
        self._settings = settings
        self._banner = banner
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        click.echo(self._banner)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second one ends at once."""
        del sig, frame
        if self._loop is None:
            self.should_exit = True
        elif not self._pool.draining:
            self._pool.draining = True
            self._loop.call_soon_threadsafe(self._start_drain)
        else:
            self.force_exit = self.should_exit = True

    def _start_drain(self) -> None:
        self._drain = asyncio.create_task(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        started, grace = monotonic(), self._settings.drain_grace
        await self._pool.drain(grace)
        # Clips that are made may still be on their way to slow readers.
        self.config.timeout_graceful_shutdown = ceil(max(LAST_SECONDS, grace - (monotonic() - started)))
        self.should_exit = True


def serve(settings: Settings, sources: Sources, home: Path) -> None:
    """Run until a signal ends it; `sources` are what the settings were made of.

    Raises:
        SettingsError: the address can't be listened on, or a model or a GPU is named that isn't there.
    """
    check_models(settings)
    # On PostgreSQL several servers may share a home.
    alone = not settings.database_url.startswith("postgres")
    with name_for("server", home, alone=alone) as name:
        _listen_and_serve(settings, sources, home, name)


def _listen_and_serve(settings: Settings, sources: Sources, home: Path, name: str) -> None:
    allow_connections()
    share_memory()
    listener = listen(settings.host, settings.port)
    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()
    # uvicorn takes both signals over when it starts to serve.
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(settings, sources, home, name, listener, stopped))


async def _serve(
    settings: Settings, sources: Sources, home: Path, name: str, listener: socket.socket, stopped: threading.Event
) -> None:
    gc.disable()
    async with AsyncExitStack() as running:
        pool = await running.enter_async_context(running_pool(settings))
        # The web framework and the database's library take most of a second to import, in which the workers already
        # load their models.
        await asyncio.sleep(0)
        from dia_server.api.protocol import bounded_protocol
        from dia_server.app import create_app
        from dia_server.core import running_core, sweep_blobs

        core = await running.enter_async_context(
            running_core(settings, home, pool, name, takes_tasks=settings.index_tts.run_in_server)
        )
        await sweep_blobs(core)
        config = uvicorn.Config(
            create_app(core, sources),
            http=bounded_protocol(settings),
            log_config=None,
            access_log=False,
            server_header=False,
            # Else clients on this machine could choose their address by `X-Forwarded-For`.
            proxy_headers=False,
        )
        key = "-H 'Authorization: Bearer <one of api_keys>' " if settings.api_keys else ""
        banner = BANNER.format(version=__version__, url=_url(listener), key=key)
        # What is there by now stays: looking for garbage in it would take time now, and hold up requests later.
        gc.freeze()
        gc.enable()
        if not stopped.is_set():
            await DrainingServer(config, pool, settings, banner).serve(sockets=[listener])


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("127.0.0.1", "0.0.0.0", "::", "::1"):  # noqa: S104 - only compared
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that a second server on the port can't start.

    Raises:
        SettingsError: the address can't be had; the message says why and what to do.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        advice = (
            "Stop what uses the port, or choose another one with --port (0 takes a free one)"
            if error.errno == errno.EADDRINUSE
            else "Choose another address with --host, or another port with --port"
        )
        raise SettingsError(f"Can't listen on {host}:{port}: {error.strerror}. {advice}") from None
    return listener
