"""The one place where everything is wired together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from litestar import Litestar
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp

from dia_server import __version__
from dia_server.api import errors, generate, openai, system, voices
from dia_server.api.bodies import JsonBody
from dia_server.api.request_log import RequestLog
from dia_server.errors import DiaServerError
from dia_server.pool.pool import Pool
from dia_server.services.speech import Speech
from dia_server.settings import Settings
from dia_server.voices.store import VoiceStore

SWAGGER = "/schema/assets"


def create_app(settings: Settings, home: Path, pool: Pool) -> ASGIApp:
    """The application over an opened home and a running pool."""
    store = VoiceStore(home / "voices")
    speech = Speech(settings, pool, store)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None, None]:
        yield
        speech.close()

    app = Litestar(
        route_handlers=[
            openai.create_speech,
            openai.list_models,
            openai.get_model,
            generate.generate,
            voices.list_voices,
            system.root,
            system.health,
            system.workers,
            system.metrics,
            create_static_files_router(SWAGGER, directories=[_swagger_folder()], include_in_schema=False),
        ],
        dto=JsonBody,
        return_dto=None,
        dependencies={
            "settings": Provide(lambda: settings, sync_to_thread=False),
            "pool": Provide(lambda: pool, sync_to_thread=False),
            "voices": Provide(lambda: store, sync_to_thread=False),
            "speech": Provide(lambda: speech, sync_to_thread=False),
        },
        exception_handlers={
            DiaServerError: errors.on_expected,
            HTTPException: errors.on_framework,
            Exception: errors.on_unexpected,
        },
        lifespan=[lifespan],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=_openapi(),
        logging_config=None,
    )
    return RequestLog(app)


def _swagger_folder() -> Path:
    """Swagger UI's files within a package that carries them; found, not imported, since it would bring Flask."""
    package = find_spec("flask_swagger_ui")
    assert package is not None  # noqa: S101 - a dependency of ours
    assert package.origin is not None  # noqa: S101 - it is an ordinary package
    return Path(package.origin).parent / "dist"


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="dia-server",
        version=__version__,
        path="/schema",
        render_plugins=[
            SwaggerRenderPlugin(
                path=["/", "/swagger"],
                favicon=f'<link rel="icon" href="{SWAGGER}/favicon-32x32.png">',
                js_url=f"{SWAGGER}/swagger-ui-bundle.js",
                css_url=f"{SWAGGER}/swagger-ui.css",
                standalone_preset_js_url=f"{SWAGGER}/swagger-ui-standalone-preset.js",
            )
        ],
    )
