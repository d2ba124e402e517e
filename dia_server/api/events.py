"""Speech as server-sent events: OpenAI's `speech.audio.delta` and `.done`, and `.words` between them."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import ceil
from typing import Any

import msgspec
from litestar import Request
from litestar.types import ASGIApp

from dia_server.api.errors import envelope
from dia_server.api.http import StreamedAnswer, begin, headers_of
from dia_server.models import registry
from dia_server.services.account import Account, TimedWord
from dia_server.services.plan import Plan, SpeechRequest
from dia_server.services.planner import Planner
from dia_server.services.speech import Speech
from dia_server.settings import Settings

# The shortest patience that proxies are known for is 30 s.
PING_SECONDS = 15.0
PING = b": ping\n\n"


class Delta(msgspec.Struct, tag_field="type", tag="speech.audio.delta"):
    """A piece of the encoded clip, in base64."""

    audio: str


class Words(msgspec.Struct, tag_field="type", tag="speech.audio.words"):
    """Words that are heard in the next pieces; their times in seconds count from the clip's start."""

    words: list[TimedWord]


class Usage(msgspec.Struct):
    """What a clip cost: UTF-8 bytes of text, and frames of the model."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class Done(msgspec.Struct, tag_field="type", tag="speech.audio.done"):
    """The clip is whole."""

    usage: Usage


async def speak_in_events(
    request: Request[Any, Any, Any],
    wanted: SpeechRequest,
    *,
    planner: Planner,
    speech: Speech,
    settings: Settings,
    with_words: bool,
) -> ASGIApp:
    """The answer to a request, as events.

    Raises:
        DiaServerError: the request can't be served.
    """
    plan, account = await begin(request, wanted, planner, speech)

    def headers() -> dict[str, str]:
        return {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"} | headers_of(plan, request, settings)

    async def events() -> AsyncGenerator[bytes, None]:
        has_begun = False
        told = 0
        try:
            async with aclosing(with_pings(speech.stream(plan, account))) as chunks:
                async for chunk in chunks:
                    if with_words and len(account.words) > told:
                        yield _event(Words(account.words[told:]))
                        told = len(account.words)
                    if chunk:
                        yield _event(Delta(b64encode(chunk).decode()))
                    elif chunk is None:
                        yield PING
                    has_begun = True
            yield _event(Done(_usage(wanted, plan, account)))
        except Exception as error:
            if has_begun:
                yield _event({"error": envelope(request.scope, error)["error"]})
            raise

    return StreamedAnswer(events(), headers, whole=False)


async def with_pings(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes | None, None]:
    """The chunks, and None whenever the next one takes long; the first one is waited for, since it may still fail."""

    async def following() -> bytes | None:
        return await anext(chunks, None)

    patience = None
    coming = asyncio.create_task(following())
    try:
        while True:
            await asyncio.wait({coming}, timeout=patience)
            if not coming.done():
                yield None
                continue
            chunk = coming.result()
            if chunk is None:
                return
            yield chunk
            patience = PING_SECONDS
            coming = asyncio.create_task(following())
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await chunks.aclose()


def _event(data: object) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(data)


def _usage(wanted: SpeechRequest, plan: Plan, account: Account) -> Usage:
    text_bytes = len(wanted.text.encode())
    samples = round(account.seconds * plan.tempo * plan.sample_rate)
    frames = ceil(samples / registry.manifest(plan.model).hop_length)
    return Usage(text_bytes, frames, text_bytes + frames)
