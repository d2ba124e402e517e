"""Settings changed while the server runs: in the file first, then in memory, for the requests that come next."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from dia_server import logs
from dia_server.config_file import Sources, parse_settings, read_text
from dia_server.config_text import with_values
from dia_server.errors import BadInput, Conflict, SettingsError
from dia_server.files import replacing
from dia_server.services.model_names import check_models
from dia_server.settings import RESTART, SECRETS, Settings

log = structlog.get_logger(__name__)


class Configuration:
    """Changes the settings and their file, one change at a time."""

    def __init__(self, settings: Settings, sources: Sources) -> None:
        """`sources` are what `settings` was made of."""
        self._settings = settings
        self._sources = sources
        self._changing = asyncio.Lock()

    async def change(self, wanted: Mapping[str, Any]) -> None:
        """Give settings other values: all of them, in memory and in the file, or none.

        Raises:
            BadInput: one can't be had; the message says why.
            Conflict: the file can't be changed, because of what somebody wrote into it.
            OSError: it can't be written.
        """
        async with self._changing:
            changes = self._changeable(wanted)
            try:
                check_models(msgspec.structs.replace(self._settings, **changes))
            except SettingsError as error:
                raise BadInput(error.message, param="engine") from None
            except ValueError as error:  # they contradict each other
                raise BadInput(str(error)) from None
            if changes:
                await asyncio.to_thread(rewrite, self._sources, changes)
                self._settings.adopt(changes)
                logs.set_level(self._settings)
                log.info("settings changed", settings=sorted(changes))

    def _changeable(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Those that may be changed; the others may be named if they have these values."""
        changes = {}
        for name, value in wanted.items():
            reason = self._obstacle(name)
            if reason is None:
                changes[name] = value
            elif name in SECRETS or value != getattr(self._settings, name):
                raise BadInput(f"'{name}' can't be changed here: {reason}", param=name)
        return changes

    def _obstacle(self, name: str) -> str | None:
        """Why a setting can't be changed while the server runs, and what to do instead."""
        instead = f"edit {self._sources.file.name} and restart the server"
        if name in SECRETS:
            return f"it is a secret; {instead}"
        if winner := self._sources.winner(name):
            return f"it is set by {winner}, which would win again at the next start; change it there, and restart"
        if name in RESTART:
            return f"{RESTART[name]}; {instead}"
        return None


def rewrite(sources: Sources, changes: Mapping[str, Any]) -> None:
    """Change the file of the settings, if it says something else.

    What others wrote into it since the start stays as it is, and counts from the next start on.

    Raises:
        Conflict: it isn't valid, or can't be changed without harm.
        OSError: it can't be written.
    """
    # Where it is a link, its target changes.
    file = sources.file.absolute().resolve()
    try:
        old = read_text(file)
        before = _parse(old, sources)
        fresh = {name: value for name, value in changes.items() if getattr(before, name) != value}
        if not fresh:
            return
        new = with_values(old, msgspec.to_builtins(fresh))
        after = _parse(new, sources)
        check_models(after)
    except SettingsError as error:
        raise Conflict(f"{file.name} is not valid any more, mend it first; nothing was changed. {error}") from None
    except ValueError as error:
        raise Conflict(f"{file.name} can only be changed by hand: {error}; nothing was changed") from None
    if after != msgspec.structs.replace(before, **fresh):
        raise Conflict(f"{file.name} can only be changed by hand: its form is unusual; nothing was changed")
    _check_writable(file)
    with replacing(file) as part:
        part.write(new.encode())


def _parse(text: str, sources: Sources) -> Settings:
    return parse_settings(text, sources.file, sources.environment, sources.overrides)


def _check_writable(file: Path) -> None:
    """A file that is read-only is meant to stay, even where its folder would let another take its place.

    Raises:
        OSError: it is.
    """
    if not file.exists():
        return
    # To root, all files seem writable.
    is_protected = not file.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    if is_protected or not os.access(file, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
