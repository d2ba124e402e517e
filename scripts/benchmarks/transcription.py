"""How well and how fast recordings are written down."""

from __future__ import annotations

import json
import re
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from benchmarks.common import HOST, Client, Note, Server, mb, running_server, speech, table
from benchmarks.hearing import read_wav, words_of
from benchmarks.texts import PASSAGES
from benchmarks.words import Heard, cells, compare

TITLE = "Transcription"
COUNT = 50
SENTENCES = tuple(sentence for passage in PASSAGES for sentence in re.split(r"(?<=[.?!]) ", passage))[:COUNT]
VOICES = ("skylark", "heron", "robin", "wren", "raven")
MEASURED = (
    f"Word error rate and pace of `POST /v1/audio/transcriptions` with Whisper tiny.en, two threads, on {COUNT} "
    f"sentences of our own that the server spoke as wav, in {len(VOICES)} voices in turns; one request at a time. As "
    "prompts, the same are uploaded by `POST /audio_prompts/upload`, which decodes, trims and levels them."
)
ROUTE = "/v1/audio/transcriptions"
SETTINGS = {"whisper_model_size": "tiny.en", "auto_transcribe": True}
POLL_SECONDS = 0.05

# What a server makes of a clip.
Listen = Callable[[bytes], str]


def run(note: Note) -> str:
    """Measure."""
    with running_server(SETTINGS) as server:
        note("speaking")
        clips = spoken(server)
        rows, first_seconds = [], []
        ways: dict[str, Listen] = {
            "text": lambda clip: transcribe(server, clip),
            "with word times": lambda clip: transcribe(server, clip, **{"timestamp_granularities[]": "word"}),
            "as prompts": lambda clip: transcript_of_prompt(server, clip),
        }
        for name, listen in ways.items():
            note(name)
            started = time.perf_counter()
            listen(clips[0])
            first_seconds.append(time.perf_counter() - started)
            rows.append([name, *cells_of(clips, listen)])
        pid = next(worker["pid"] for worker in server.workers() if worker["lane"] == "tools")
        memory = psutil.Process(pid).memory_info().rss
    head = ["Asked for", "Words", "Replaced", "Left out", "Added", "Word error rate", "95 % interval", "Median", "Pace"]
    return (
        f"{table(head, rows)}\n\nThe first request, which starts the workers and loads the weights, took "
        f"{first_seconds[0]:.1f} s; "
        f"word times for the first time took {first_seconds[1]:.1f} s. The worker holds {mb(memory)}."
    )


def spoken(server: Server) -> list[bytes]:
    """The sentences as wav files."""
    client = Client(server.port)
    bodies = [
        speech(sentence, "wav", voice=VOICES[number % len(VOICES)], stream=False)
        for number, sentence in enumerate(SENTENCES)
    ]
    clips = [b"".join(client.speak(body)) for body in bodies]
    client.close()
    return clips


def cells_of(clips: Sequence[bytes], listen: Listen) -> list[str]:
    """For the table: what was misheard, and how long it took."""
    heard: list[Heard] = []
    taken = []
    for sentence, clip in zip(SENTENCES, clips, strict=True):
        started = time.perf_counter()
        text = listen(clip)
        taken.append(time.perf_counter() - started)
        heard.append(compare(words_of(sentence), words_of(text)))
    seconds = sum(len(samples) / rate for samples, rate in map(read_wav, clips))
    median = sorted(taken)[len(taken) // 2]
    return [*cells(heard), f"{median:.2f} s", f"**{seconds / sum(taken):.1f}x** real time"]


def transcribe(server: Server, clip: bytes, **fields: str) -> str:
    """What the server makes of a clip."""
    answer = ask(server, ROUTE, form({"response_format": "verbose_json"} | fields, "file", clip))
    text: str = answer["text"]
    return text


def transcript_of_prompt(server: Server, clip: bytes) -> str:
    """What the server makes of a clip that is uploaded as a prompt."""
    prompt_id = uuid.uuid4().hex
    known = ask(server, "/audio_prompts/upload", form({"prompt_id": prompt_id}, "audio_file", clip))
    while (transcript := known.get("transcript")) is None:
        time.sleep(POLL_SECONDS)
        known = ask(server, f"/audio_prompts/metadata/{prompt_id}")
    text: str = transcript
    return text


def form(fields: Mapping[str, str], file_field: str, clip: bytes) -> tuple[bytes, dict[str, str]]:
    """A body with a file, and its headers."""
    boundary = uuid.uuid4().hex
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    parts += [f'name="{file_field}"; filename="a.wav"\r\n\r\n'.encode() + clip]
    body = b"".join(f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts)
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def ask(server: Server, path: str, body: tuple[bytes | None, dict[str, str]] = (None, {})) -> dict[str, Any]:
    """The answer to a body with its headers, or to none."""
    request = urllib.request.Request(f"http://{HOST}:{server.port}{path}", *body)  # noqa: S310 - our own server
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - our own server
        found: dict[str, Any] = json.load(answer)
        return found
