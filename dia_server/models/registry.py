"""The models that are installed, found by the entry point group `dia_server.models`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from dia_server.errors import ModelNotFound, ModelUnavailable, SettingsError
from dia_server.models.protocol import Engine, Manifest

GROUP = "dia_server.models"


@cache
def manifests() -> dict[str, Manifest]:
    """All installed models by name, in alphabetical order; other packages may add theirs to the group."""
    found: list[Manifest] = [entry.load() for entry in entry_points(group=GROUP)]
    return {manifest.name: manifest for manifest in sorted(found, key=lambda manifest: manifest.name)}


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
    kind = manifest(name).setup
    try:
        return msgspec.convert(models.get(name, {}), kind)
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


def load_engine(name: str, threads: int, setup: Mapping[str, Any]) -> Engine:
    """Import a model's heavy half and load it; takes seconds, so only workers call it.

    `setup` are the model's own settings, as plain data.

    Raises:
        ModelUnavailable: its packages are not installed, or as the model says.
    """
    if obstacle := manifest(name).not_installed():
        raise ModelUnavailable(obstacle)
    module, function = manifest(name).engine.split(":")
    engine: Engine = getattr(import_module(module), function)(threads, setup_of(name, {name: setup}))
    return engine
