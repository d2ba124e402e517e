"""Which model a name stands for, and whether there are all that the settings name."""

from __future__ import annotations

from functools import lru_cache
from time import monotonic

import msgspec

from dia_server.errors import ModelNotFound, ModelUnavailable, SettingsError
from dia_server.models import registry
from dia_server.models.protocol import Manifest
from dia_server.settings import Settings

LONGEST_NAME = 100  # ids have 64 characters at most; the rest would only be echoed
AUTO_MODEL = "hibari"
# For so long it is taken that a model can still, or still not, be loaded.
OBSTACLE_SECONDS = 5.0
DEFAULT_MODEL_NAMES = frozenset(
    {
        "dia",
        "tts-1",
        "tts-1-1106",
        "tts-1-hd",
        "tts-1-hd-1106",
        "gpt-4o-mini-tts",
        "gpt-4o-mini-tts-2025-03-20",
        "gpt-4o-mini-tts-2025-12-15",
    }
)


def default_model(settings: Settings) -> str:
    """The model behind `dia` and OpenAI's model names."""
    return AUTO_MODEL if settings.engine == "auto" else settings.engine


def check_models(settings: Settings) -> None:
    """Refuse to start with models that nobody could run.

    Raises:
        SettingsError: `engine` or a lane names a model that is not installed, `engine` one that doesn't speak, or
            `emotion_model` one that tells no emotions; a model's own settings are wrong.
    """
    wanted = [("engine", default_model(settings), registry.speaking())]
    if settings.emotion_model is not None:
        wanted.append(("emotion_model", settings.emotion_model, registry.able("classify")))
    wanted += [(lane, name, registry.manifests()) for lane, name in _models_of_lanes(settings)]
    wanted += [("models", name, registry.manifests()) for name in settings.models]
    if settings.index_tts.model != "auto":
        wanted.append(("index_tts.model", settings.index_tts.model, registry.speaking()))
    for setting, name, installed in wanted:
        if name not in installed:
            raise SettingsError(f"{setting}: model '{name}' is not installed; installed are {', '.join(installed)}")
    for name in settings.models:
        registry.setup_of(name, settings.models)


def _models_of_lanes(settings: Settings) -> list[tuple[str, str]]:
    return [(f"lanes.{lane}", name) for lane, config in settings.lanes.items() for name in config.models]


def choose_model(name: str, settings: Settings) -> tuple[Manifest, str | None]:
    """The model that a name stands for, and what the client should know of that.

    Raises:
        ModelNotFound: it is not installed, and the settings refuse such names.
        ModelUnavailable: it can't be loaded here.
    """
    if name in DEFAULT_MODEL_NAMES:
        return registry.manifest(default_model(settings)), None
    if name in registry.speaking():
        # Before a worker tries: that would show as trouble of the server's, and anybody could make it.
        if reason := _obstacle(name, msgspec.json.encode(settings.models), int(monotonic() / OBSTACLE_SECONDS)):
            raise ModelUnavailable(f"Model '{name}' can't be loaded: {reason}", retry_after=60)
        return registry.manifest(name), None
    if settings.unknown_models == "refuse":
        raise ModelNotFound(
            f"Model '{name[:LONGEST_NAME]}' not found. Models that speak: {', '.join(registry.speaking())}",
            param="model",
        )
    manifest = registry.manifest(default_model(settings))
    return manifest, f"The requested model is not installed; '{manifest.name}' spoke instead"


@lru_cache(maxsize=64)
def _obstacle(name: str, models: bytes, moment: int) -> str:
    """What `registry.obstacle` has said at a moment; it looks at files, and every request asks."""
    del moment
    return registry.obstacle(name, msgspec.json.decode(models))
