"""The one place where everything is wired together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp

from dia_server import __version__
from dia_server.api import (
    configuration,
    documents,
    errors,
    generate,
    gpus,
    index_tts,
    jobs,
    logs,
    mappings,
    openai,
    prompts,
    queue,
    system,
    transcriptions,
    transcripts,
    voices,
    whisper,
)
from dia_server.api.access import KeyGuard, RateGuard, TurnGuard
from dia_server.api.bodies import BODY_BOUND, FILE_BOUND, JsonBody, LargeBodies, bounded_request
from dia_server.api.cors import Cors
from dia_server.api.head import HeadAsGet
from dia_server.api.request_log import RequestLog
from dia_server.api.uploads import Uploads
from dia_server.background import in_background
from dia_server.config_file import Sources
from dia_server.core import Core, sweep_blobs_for_ever
from dia_server.errors import DiaServerError
from dia_server.jobs.feed import Feed
from dia_server.services.configuration import Configuration
from dia_server.services.demands import Demands
from dia_server.services.discovery import Discovery
from dia_server.services.gpus import Gpus
from dia_server.services.mappings import Mappings
from dia_server.services.previews import Previews
from dia_server.services.prompts import Prompts
from dia_server.services.transcription import Transcription
from dia_server.settings import Settings

SWAGGER = "/schema/assets"


# Those whose bodies, if they have any, are JSON.
ROUTES = (
    openai.create_speech,
    openai.list_models,
    openai.get_model,
    openai.list_audio_models,
    openai.list_described_models,
    generate.generate,
    voices.list_voices,
    voices.list_voices_of_model,
    voices.voice_mappings,
    voices.voice_mapping_list,
    whisper.whisper_status,
    whisper.load_whisper,
    mappings.create_mapping,
    mappings.update_mapping,
    mappings.delete_mapping,
    mappings.delete_custom_voice,
    mappings.preview,
    prompts.list_prompts,
    prompts.list_metadata,
    prompts.get_metadata,
    prompts.get_prompt,
    prompts.get_audio,
    prompts.delete_prompt,
    prompts.discover,
    transcripts.put_transcript,
    transcripts.transcribe_prompt,
    jobs.list_jobs,
    jobs.clear_jobs,
    jobs.get_job,
    jobs.cancel_job,
    jobs.get_result,
    jobs.watch_job,
    index_tts.get_task,
    index_tts.get_task_audio,
    index_tts.list_tasks,
    index_tts.delete_task,
    queue.queue_stats,
    logs.list_logs,
    logs.clear_logs,
    logs.get_log,
    logs.delete_log,
    logs.download_log,
    configuration.get_config,
    configuration.put_config,
    system.root,
    system.health,
    system.workers,
    gpus.gpu_status,
    system.metrics,
    system.cleanup,
)


def create_app(core: Core, sources: Sources) -> ASGIApp:
    """The application over running services; `sources` are what the settings were made of."""
    return RequestLog(HeadAsGet(Cors(create_routes(core, sources), core.settings)))


def create_routes(core: Core, sources: Sources) -> Litestar:
    """The application without the layers that see every request, those to unknown routes too."""
    settings, pool, voices_there, prompts_there = core.settings, core.pool, core.voices, core.prompts
    transcription = Transcription(settings, pool)
    voice_mappings = Mappings(settings, voices_there, prompts_there)
    prompt_service = Prompts(settings, pool, prompts_there, voice_mappings, transcription)
    discovery = Discovery(settings, pool, prompts_there, prompt_service)
    previews = Previews(core.home / "cache" / "previews", settings, pool, core.speech, voices_there, core.planner)
    uploads = Uploads(settings)
    feed = Feed(core.jobs)
    pool.at_drain(feed.close)

    return Litestar(
        route_handlers=[
            *ROUTES,
            Router(
                "/",
                route_handlers=[index_tts.create_task],
                opt={BODY_BOUND: "max_task_body_bytes"},
                middleware=[LargeBodies(settings)],
            ),
            _with_files("max_upload_bytes", transcriptions.create_transcription, transcriptions.create_translation),
            _with_files("max_upload_bytes", prompts.upload_prompt),
            # Litestar wants all that a path takes in one place.
            _with_files("max_voice_sample_bytes", mappings.create_custom_voice, voices.list_audio_voices),
            create_static_files_router(SWAGGER, directories=[_swagger_folder()], include_in_schema=False),
            create_static_files_router("/pages", directories=[system.PAGES], include_in_schema=False),
        ],
        dto=JsonBody,
        return_dto=None,
        dependencies={
            "settings": _given(settings),
            "pool": _given(pool),
            "choice": _given(pool.choice),
            "voices": _given(voices_there),
            "planner": _given(core.planner),
            "index_tts": _given(core.index_tts),
            "speech": _given(core.speech),
            "history": _given(core.history),
            "job_store": _given(core.jobs),
            "presence": _given(core.presence),
            "results": _given(core.results),
            "runner": _given(core.runner),
            "feed": _given(feed),
            "transcription": _given(transcription),
            "prompt_store": _given(prompts_there),
            "prompts": _given(prompt_service),
            "discovery": _given(discovery),
            "mappings": _given(voice_mappings),
            "demands": _given(Demands(settings, pool.choice, prompts_there)),
            "previews": _given(previews),
            "uploads": _given(uploads),
            "gpus": _given(Gpus(pool)),
            "configuration": _given(Configuration(settings, sources)),
        },
        exception_handlers={
            DiaServerError: errors.on_expected,
            HTTPException: errors.on_framework,
            OSError: errors.on_storage,
            Exception: errors.on_unexpected,
        },
        guards=[KeyGuard(settings), RateGuard(settings), TurnGuard()],
        lifespan=[partial(_running, core, discovery)],
        request_class=bounded_request(settings),
        request_max_body_size=None,
        openapi_config=_openapi(settings),
        logging_config=None,
    )


@asynccontextmanager
async def _running(core: Core, discovery: Discovery, app: Litestar) -> AsyncGenerator[None, None]:
    """What goes on beside the requests."""
    del app
    async with AsyncExitStack() as running:
        await running.enter_async_context(discovery.running())
        await running.enter_async_context(core.results.swept())
        await running.enter_async_context(in_background(sweep_blobs_for_ever(core), "blobs"))
        if core.settings.run_jobs_in_server:
            await running.enter_async_context(core.runner.running())
        yield


def _given(service: object) -> Provide:
    """The same for every request."""
    return Provide(lambda: service, sync_to_thread=False)


def _with_files(bound: str, *handlers: HTTPRouteHandler) -> Router:
    """Routes whose bodies may be forms with a file, and the setting that bounds it."""
    return Router("/", route_handlers=handlers, opt={FILE_BOUND: bound})


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
