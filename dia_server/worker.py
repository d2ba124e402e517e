"""A worker: a pool and the runner of jobs, without HTTP."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from dia_server.jobs.instance import name_for
from dia_server.pool.pool import running_pool
from dia_server.process import share_memory
from dia_server.services.model_names import check_models
from dia_server.settings import Settings

BANNER = "dia-server worker {name} runs jobs from {home}; stop: Ctrl-C"


def work(settings: Settings, home: Path) -> None:
    """Run jobs until a signal ends it; what is not done then is given back.

    Raises:
        SettingsError: the database can't be used, or a model is named that isn't there.
    """
    check_models(settings)
    share_memory()
    with name_for("worker", home) as name:
        asyncio.run(_work(settings, home, name))


async def _work(settings: Settings, home: Path, name: str) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopped.set))
    async with running_pool(settings, has_listeners=False) as pool:
        # The database's library takes a third of a second to import, in which the workers load their models.
        await asyncio.sleep(0)
        from dia_server.core import running_core

        async with running_core(settings, home, pool, name) as core, core.runner.running():
            click.echo(BANNER.format(name=name, home=home))
            await stopped.wait()
            await pool.drain(0)
