"""The models that are installed, found by the entry point group `dia_server.models`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import msgspec

from dia_server.errors import ModelNotFound, SettingsError
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
        raise SettingsError(f"models.{name}: {error}; the settings of model '{name}' are: {known}") from None


def load_engine(name: str, threads: int, setup: Mapping[str, Any]) -> Engine:
    """Import a model's heavy half and load it; takes seconds, so only workers call it.

    `setup` are the model's own settings, as plain data.
    """
    module, function = manifest(name).engine.split(":")
    engine: Engine = getattr(import_module(module), function)(threads, setup_of(name, {name: setup}))
    return engine
