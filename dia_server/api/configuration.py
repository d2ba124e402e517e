"""The Dia server's routes for the settings: what they are, and other ones from now on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
from litestar import get, put

from dia_server.api.documents import failures
from dia_server.services.configuration import Configuration
from dia_server.settings import SECRETS, Settings

_HINTS = get_type_hints(Settings, include_extras=True)

if TYPE_CHECKING:
    Config = Settings
    ConfigChange = Settings
else:
    # Made from the settings, so that none is forgotten.
    Config = msgspec.defstruct(
        "Config", [(name, hint) for name, hint in _HINTS.items() if name not in SECRETS], module=__name__
    )
    ConfigChange = msgspec.defstruct(
        "ConfigChange",
        [(name, hint | msgspec.UnsetType, msgspec.UNSET) for name, hint in _HINTS.items()],
        module=__name__,
        forbid_unknown_fields=True,
    )


class ConfigAnswer(msgspec.Struct):
    """The settings as they are now."""

    message: str
    config: Config


@get(["/config", "/v1/config"], summary="Settings", responses=failures(401), sync_to_thread=False)
def get_config(settings: Settings) -> Config:
    """Every setting, but for secrets."""
    return _shown(settings)


@put(
    ["/config", "/v1/config"],
    summary="Change settings",
    responses=failures(400, 401, 409, 413, 415, 500, 503, 507),
)
async def put_config(data: ConfigChange, configuration: Configuration, settings: Settings) -> ConfigAnswer:
    """Change settings for the requests that come next, and in config.yaml: all that the body names, or none."""
    given: dict[str, Any] = {name: value for name in _HINTS if (value := getattr(data, name)) is not msgspec.UNSET}
    await configuration.change(given)
    return ConfigAnswer("Configuration updated successfully", _shown(settings))


def _shown(settings: Settings) -> Config:
    return Config(**{name: getattr(settings, name) for name in Config.__struct_fields__})
