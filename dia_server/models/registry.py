"""The models: those that packages bring by the entry point group `dia_server.models`, and config.yaml's programs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from dia_server.errors import ModelNotFound, ModelUnavailable, SettingsError
from dia_server.models import program
from dia_server.models.protocol import Engine, Manifest

GROUP = "dia_server.models"

Setup = TypeVar("Setup", bound=msgspec.Struct)

# Of this process: what its settings say when it starts.
_programs: dict[str, Manifest] = {}


@cache
def _installed() -> dict[str, Manifest]:
    """Those that packages bring, by name; other packages may add theirs to the group."""
    found: list[Manifest] = [entry.load() for entry in entry_points(group=GROUP)]
    return {manifest.name: manifest for manifest in found}


def register(models: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the programs among the models that the settings describe; to be called when a process has its settings.

    Raises:
        SettingsError: one is described wrongly.
    """
    for name, setup in models.items():
        if "command" in setup and name not in _installed():
            _programs[name] = program.manifest(name, _converted(name, setup, program.ProgramSetup))


def manifests() -> dict[str, Manifest]:
    """All models by name, in alphabetical order."""
    return dict(sorted((_programs | _installed()).items()))


def speaking() -> dict[str, Manifest]:
    """Those that clients may ask to speak."""
    return able("speak")


def able(capability: str) -> dict[str, Manifest]:
    """Those that have a capability."""
    return {name: manifest for name, manifest in manifests().items() if capability in manifest.capabilities}


def manifest(name: str) -> Manifest:
    """The manifest of one model.

    Raises:
        ModelNotFound: no installed package registers that name.
    """
    try:
        return manifests()[name]
    except KeyError:
        known = ", ".join(manifests())
        raise ModelNotFound(f"Model '{name}' not found. Installed models: {known}", param="model") from None


def setup_of(name: str, models: Mapping[str, Mapping[str, Any]]) -> msgspec.Struct:
    """A model's own settings; `models` are those of all, as plain data.

    Raises:
        SettingsError: one is unknown or out of range.
    """
    return _converted(name, models.get(name, {}), manifest(name).setup)


def lacking(name: str, models: Mapping[str, Mapping[str, Any]]) -> str:
    """What of a model is not installed here, and how to install it; empty if all is. Its weights may still be missing.

    Raises:
        SettingsError: its own settings are wrong.
    """
    described, setup = manifest(name), setup_of(name, models)
    if missing := described.not_installed():
        return missing
    # Looking at weights takes more than a list has time for.
    return "" if described.repositories(setup) else _found_wrong(described, setup)


def obstacle(name: str, models: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a model can't be loaded here, and what to do; empty if nothing is known to be in its way.

    Raises:
        SettingsError: its own settings are wrong.
    """
    described = manifest(name)
    return described.not_installed() or _found_wrong(described, setup_of(name, models))


def _found_wrong(described: Manifest, setup: msgspec.Struct) -> str:
    try:
        described.check(setup)
    except ModelUnavailable as error:
        return error.message
    return ""


def load_engine(name: str, threads: int, setup: Mapping[str, Any]) -> Engine:
    """Import a model's heavy half and load it; takes seconds, so only workers call it.

    `setup` are the model's own settings, as plain data.

    Raises:
        ModelUnavailable: its packages are not installed, what it is read from is missing, or as the model says.
    """
    register({name: setup})
    # Before what takes seconds to import.
    if reason := obstacle(name, {name: setup}):
        raise ModelUnavailable(reason)
    module, function = manifest(name).engine.split(":")
    engine: Engine = getattr(import_module(module), function)(threads, setup_of(name, {name: setup}))
    return engine


def _converted(name: str, setup: Mapping[str, Any], kind: type[Setup]) -> Setup:
    try:
        return msgspec.convert(setup, kind)
    except msgspec.ValidationError as error:
        known = ", ".join(kind.__struct_fields__) or "none"
        raise SettingsError(
            f"models.{name}: {error}{_allowed(kind, str(error))}; the settings of model '{name}' are: {known}"
        ) from None


def _allowed(kind: type[msgspec.Struct], error: str) -> str:
    """The values of the setting that an error names, if they are a list."""
    setting = error.rpartition("`$.")[2].rstrip("`")
    hint = get_type_hints(kind).get(setting)
    return f", allowed are {', '.join(get_args(hint))}" if get_origin(hint) is Literal else ""
