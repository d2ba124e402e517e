"""The models that are installed, found by the entry point group `dia_server.models`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from dia_server.errors import ModelNotFound
from dia_server.models.protocol import Engine, Manifest

GROUP = "dia_server.models"


@cache
def manifests() -> dict[str, Manifest]:
    """All installed models by name, in alphabetical order; other packages may add theirs to the group."""
    found: list[Manifest] = [entry.load() for entry in entry_points(group=GROUP)]
    return {manifest.name: manifest for manifest in sorted(found, key=lambda manifest: manifest.name)}


def speaking() -> dict[str, Manifest]:
    """Those that clients may ask to speak."""
    return {name: manifest for name, manifest in manifests().items() if "speak" in manifest.capabilities}


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


def load_engine(name: str, threads: int) -> Engine:
    """Import a model's heavy half and load it; takes seconds, so only workers call it."""
    module, function = manifest(name).engine.split(":")
    engine: Engine = getattr(import_module(module), function)(threads)
    return engine
