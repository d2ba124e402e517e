"""Models that are programs of their own, with their own interpreter and packages; config.yaml describes them.

docs/programs.md says how such a program is written.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from shutil import which
from typing import Annotated, Any, Literal

import msgspec

from dia_server.errors import ModelUnavailable
from dia_server.models.protocol import Manifest

Name = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]*$")]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


def _said(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class ProgramSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program, how it is started, and what it can do."""

    command: Annotated[
        tuple[str, ...],
        msgspec.Meta(min_length=1),
        _said("the program and its arguments, such as `[venv/bin/python, tone.py]`; no shell reads them"),
    ]
    folder: Annotated[str, _said("its working directory, from which its own path counts too")] = "."
    environment: Annotated[
        dict[str, str], _said("variables that it gets besides the server's own, of which `DIA_SERVER_…` are left out")
    ] = {}
    sample_rate: Annotated[
        int, msgspec.Meta(ge=8_000, le=192_000), _said("of the wav files that it writes, in Hz; it has to say the same")
    ]
    description: Annotated[str, _said("one sentence for lists")] = "A program that config.yaml names."
    licence: Annotated[str, _said("SPDX id of its weights' licence, for lists")] = "not stated"
    languages: Annotated[tuple[str, ...], _said("ISO 639-1 codes; empty means any text")] = ()
    directable: Annotated[
        frozenset[Literal["audio_prompt", "emotion", "emotion_reference"]],
        _said("what it acts on: recordings of the voice, weights of emotions, recordings of a manner"),
    ] = frozenset()
    options: Annotated[
        dict[Name, bool | int | float | str | None],
        _said("the parameters of requests that it takes, with their defaults, which fix their types"),
    ] = {}
    beat_seconds: Annotated[
        Seconds,
        _said("seconds without a line from it before it counts as hung; covers a segment where it sends no beats"),
    ] = 120.0
    task_seconds: Annotated[
        Seconds, _said("seconds for one segment, whatever it says meanwhile; then it counts as hung too")
    ] = 1800.0


def manifest(name: str, setup: ProgramSetup) -> Manifest:
    """What is known of a program before it is started."""
    return Manifest(
        name=name,
        description=setup.description,
        capabilities=frozenset({"speak"}),
        engine="dia_server.models.program.engine:load",
        options=options_of(setup),
        setup=ProgramSetup,
        sample_rate=setup.sample_rate,
        licence=setup.licence,
        source=f"`models: {name}` in config.yaml",
        languages=setup.languages,
        directable=frozenset(setup.directable),
        check=partial(_check, name),
        beat_seconds=setup.beat_seconds,
        devices=frozenset({"cpu", "cuda"}),
    )


def _check(name: str, setup: Any) -> None:
    """Whether there is something to start; whether it comes up shows when it does.

    Raises:
        ModelUnavailable: there is not.
    """
    folder = Path(setup.folder).expanduser()
    if not folder.is_dir():
        raise ModelUnavailable(f"the folder {folder} is not there; `models: {name}: folder` in config.yaml names it")
    first = setup.command[0]
    if which(folder / first if "/" in first else first, path=setup.environment.get("PATH")) is None:
        raise ModelUnavailable(
            f"there is no program {first} in {folder}; `models: {name}: command` in config.yaml begins with it"
        )


def options_of(setup: ProgramSetup) -> type[msgspec.Struct]:
    """The struct of its options."""
    fields: list[tuple[str, Any, Any]] = [
        (name, Any if default is None else type(default), default) for name, default in setup.options.items()
    ]
    return msgspec.defstruct("ProgramOptions", fields, frozen=True, kw_only=True, forbid_unknown_fields=True)


__all__ = ["ProgramSetup", "manifest", "options_of"]
