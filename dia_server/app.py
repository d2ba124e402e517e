"""The one place where everything is wired together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp

from dia_server import __version__
from dia_server.api import documents, errors, generate, openai, system, transcriptions, voices, whisper
from dia_server.api.access import KeyGuard, RateGuard, TurnGuard
from dia_server.api.bodies import JsonBody
from dia_server.api.cors import Cors
from dia_server.api.head import HeadAsGet
from dia_server.api.request_log import RequestLog
from dia_server.errors import DiaServerError
from dia_server.pool.pool import Pool
from dia_server.services.speech import Speech
from dia_server.services.transcription import Transcription
from dia_server.settings import Settings
from dia_server.voices.store import VoiceStore

SWAGGER = "/schema/assets"


def create_app(settings: Settings, home: Path, pool: Pool) -> ASGIApp:
    """The application over an opened home and a running pool."""
    routes = create_routes(settings, home, pool)
    return RequestLog(HeadAsGet(Cors(routes, settings.cors_origins)))


def create_routes(settings: Settings, home: Path, pool: Pool) -> Litestar:
    """The application without the layers that see every request, those to unknown routes too."""
    store = VoiceStore(home / "voices")
    speech = Speech(settings, pool, store)
    transcription = Transcription(settings, pool)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None, None]:
        yield
        speech.close()

    return Litestar(
        route_handlers=[
            openai.create_speech,
            openai.list_models,
            openai.get_model,
            openai.list_audio_models,
            generate.generate,
            voices.list_voices,
            voices.list_audio_voices,
            voices.list_voices_of_model,
            voices.voice_mappings,
            voices.voice_mapping_list,
            Router(
                "/",
                route_handlers=[transcriptions.create_transcription, transcriptions.create_translation],
                request_max_body_size=settings.max_upload_bytes,
            ),
            whisper.whisper_status,
            whisper.load_whisper,
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
            "transcription": Provide(lambda: transcription, sync_to_thread=False),
        },
        exception_handlers={
            DiaServerError: errors.on_expected,
            HTTPException: errors.on_framework,
            Exception: errors.on_unexpected,
        },
        guards=[KeyGuard(settings), RateGuard(settings), TurnGuard()],
        lifespan=[lifespan],
        request_max_body_size=settings.max_body_bytes,
        openapi_config=_openapi(settings),
        logging_config=None,
    )


def _swagger_folder() -> Path:
    """Swagger UI's files within a package that carries them; found, not imported, since it would bring Flask."""
    package = find_spec("flask_swagger_ui")
    assert package is not None  # noqa: S101 - a dependency of ours
    assert package.origin is not None  # noqa: S101 - it is an ordinary package
    return Path(package.origin).parent / "dist"


def _openapi(settings: Settings) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="dia-server",
        version=__version__,
        components=documents.KEYS,
        security=documents.ANY_KEY if settings.api_keys else None,
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
