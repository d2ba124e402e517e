#!/usr/bin/env python3
"""Check that a running Dia server keeps its word about seeds: the same seed gives the same bytes.

Works against any server with the Dia TTS Server API, with nothing but Python. Each check is one line; the exit status
is 0 unless one failed. What a server doesn't offer is skipped, and said.

Examples:
  python test_seed_functionality.py --url http://localhost:7860
  python test_seed_functionality.py --url http://speech.lan:7860 --voice seraphina_voice
  DIA_API_KEY=secret python test_seed_functionality.py --url https://speech.example.org
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

TEXT = "[S1] Hello world! [S2] How are you today?"
SEED, OTHER_SEED = 42, 2024
SEEDS = (SEED, OTHER_SEED, 7)
AT_ONCE = 8
# Dia takes a while on a processor, and waits in a queue besides.
ANSWER_SECONDS = 300.0
JOB_SECONDS = 600.0
POLL_SECONDS = 0.2
OK = http.client.OK


class Failed(Exception):
    """The server doesn't keep its word; the message says how."""


class Skipped(Exception):
    """The server doesn't offer what is checked."""


class Unusable(Exception):
    """Nothing can be checked; the message says why, and what to do."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Message
    body: bytes

    def words(self) -> str:
        """What the server says about a refusal."""
        try:
            return f"{self.status}: {json.loads(self.body)['detail']}"
        except (ValueError, KeyError, TypeError):
            return f"{self.status}: {self.body[:200].decode(errors='replace')}"


class Server:
    """The server to check, and the voice to do it with."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self.url = url
        self.voice = ""
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def ask(self, path: str, body: object = None) -> Answer:
        """One request over a connection of its own.

        Raises:
            Unusable: the server can't be reached, or wants a key.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | {"Content-Type": "application/json"}
        request = Request(self.url + path, data, headers)  # noqa: S310 - `http_url` took no other scheme
        try:
            with urlopen(request, timeout=ANSWER_SECONDS) as reply:  # noqa: S310
                answer = Answer(reply.status, reply.headers, reply.read())
        except HTTPError as error:
            answer = Answer(error.code, error.headers, error.read())
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise Unusable(
                f"{self.url} can't be reached or broke off: {reason}. Is the server running there?"
            ) from None
        if answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise Unusable(f"{self.url} wants a key ({answer.words()}). Give one with --api-key, or in DIA_API_KEY")
        return answer

    def choose_voice(self, name: str | None) -> None:
        """Take the voice that is named, or the server's first one.

        Raises:
            Unusable: there is none.
        """
        if name is None:
            answer = self.ask("/voices")
            try:
                voices = json.loads(answer.body)["voices"]
                name = voices[0]["id"] if voices else None
            except (ValueError, KeyError, TypeError):
                raise Unusable(f"{self.url}/voices lists no voices ({answer.words()}). Is it a Dia server?") from None
            if name is None:
                raise Unusable(f"{self.url} has no voices yet. Make one with POST /voice_mappings, then come back")
        self.voice = name

    def generate(self, seed: int | None, audio_format: str = "wav", query: str = "") -> Answer:
        """Speech by the Dia route; without a seed, the server draws one."""
        body = {"text": TEXT, "voice_id": self.voice, "response_format": audio_format, "seed": seed}
        return self.ask(f"/generate{query}", body)

    def speech(self, seed: int | None) -> Answer:
        """Speech by OpenAI's route."""
        body = {"input": TEXT, "voice": self.voice, "model": "dia", "seed": seed}
        return self.ask("/v1/audio/speech", body)


def sound(answer: Answer) -> bytes:
    """The audio of an answer.

    Raises:
        Failed: there is none.
    """
    if answer.status != OK:
        raise Failed(f"the server answered {answer.words()}")
    if not answer.body or answer.headers.get_content_type() == "application/json":
        raise Failed("the server answered 200, but without audio")
    return answer.body


def same(first: bytes, *others: bytes) -> str:
    """What to say of equal clips.

    Raises:
        Failed: they differ.
    """
    for other in others:
        if other != first:
            pairs = zip(first, other, strict=False)
            place = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(other)))
            raise Failed(f"{len(first)} and {len(other)} bytes, which differ from byte {place} on")
    return f"{len(others) + 1} x the same {len(first)} bytes"


def twice(speak: Callable[[int], Answer]) -> str:
    """Ask for the same twice."""
    return same(*(sound(speak(SEED)) for _ in range(2)))


def check_different_seeds(server: Server) -> str:
    """Seeds make a difference."""
    if len({sound(server.generate(seed)) for seed in SEEDS}) == 1:
        raise Failed(f"seeds {SEEDS} gave the same bytes: the voice's model doesn't use its seed; try another --voice")
    return f"seeds {SEEDS} sound different"


def drawn(speak: Callable[[int | None], Answer]) -> str:
    """Let the server draw a seed, and hold it to that.

    Raises:
        Skipped: it doesn't tell its seeds.
    """
    answer = speak(None)
    clip, seed = sound(answer), answer.headers.get("X-Seed")
    if seed is None:
        raise Skipped("the server doesn't tell the seeds that it draws: its answer has no X-Seed")
    return f"seed {seed}, {same(clip, sound(speak(int(seed))))}"


def check_at_once(server: Server) -> str:
    """Load changes nothing, and nothing crosses over."""
    alone = {seed: sound(server.generate(seed)) for seed in (SEED, OTHER_SEED)}
    seeds = [SEED, OTHER_SEED] * (AT_ONCE // 2)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        clips = [sound(answer) for answer in threads.map(server.generate, seeds)]
    for seed, clip in zip(seeds, clips, strict=True):
        same(alone[seed], clip)
    return f"{AT_ONCE} clips with the bytes of quiet moments"


def check_async(server: Server) -> str:
    """A job has the bytes of the answer without it."""
    accepted = server.generate(SEED, query="?async_mode=true")
    # The same request without the query was answered, so that it is the query which is refused.
    if http.client.BAD_REQUEST <= accepted.status < http.client.INTERNAL_SERVER_ERROR:
        raise Skipped(f"the server has no async mode ({accepted.words()})")
    if accepted.headers.get_content_type() != "application/json":
        raise Skipped("the server has no async mode (it answered with the audio)")
    job = read_json(accepted)
    if missing := {"job_id", "status", "message"} - job.keys():
        raise Failed(f"the answer lacks {', '.join(sorted(missing))}: {job}")
    path = f"/jobs/{quote(str(job['job_id']), safe='')}"
    wait_for_job(server, path)
    return f"job {job['job_id']}, {same(sound(server.generate(SEED)), sound(server.ask(f'{path}/result')))}"


def wait_for_job(server: Server, path: str) -> None:
    """Until the job is done.

    Raises:
        Failed: it ends otherwise, or not in time, or its result is there before.
    """
    deadline = time.monotonic() + JOB_SECONDS
    while (status := read_json(server.ask(path)).get("status")) in ("pending", "processing"):
        early = server.ask(f"{path}/result")
        # It may have ended between the two questions.
        if early.status not in (OK, http.client.TOO_EARLY):
            raise Failed(f"the result of a job that isn't done must be 425, but was {early.words()}")
        if time.monotonic() > deadline:
            raise Failed(f"the job is still {status} after {JOB_SECONDS:g} s")
        time.sleep(POLL_SECONDS)
    if status != "completed":
        raise Failed(f"the job ended as {status}")


def read_json(answer: Answer) -> dict[str, Any]:
    """The object in an answer.

    Raises:
        Failed: there is none.
    """
    try:
        content = json.loads(answer.body)
    except ValueError:
        content = None
    if answer.status != OK or not isinstance(content, dict):
        raise Failed(f"the server answered {answer.words()}")
    return content


CHECKS: dict[str, Callable[[Server], str]] = {
    "POST /generate: the same seed twice": lambda server: twice(server.generate),
    "POST /generate as mp3: the same seed twice": lambda server: twice(lambda seed: server.generate(seed, "mp3")),
    "POST /v1/audio/speech: the same seed twice": lambda server: twice(server.speech),
    "Different seeds: different bytes": check_different_seeds,
    "POST /generate without a seed: told in X-Seed, which repeats it": lambda server: drawn(server.generate),
    "POST /v1/audio/speech without a seed: told in X-Seed, which repeats it": lambda server: drawn(server.speech),
    "Eight at once, two seeds: each as if it were alone": check_at_once,
    "POST /generate?async_mode=true: the bytes of the answer without it": check_async,
}


def run(title: str, check: Callable[[Server], str], server: Server) -> bool:
    """Make one check, and print its line; whether it did not fail."""
    try:
        mark, said = "ok  ", check(server)
    except Skipped as skipped:
        mark, said = "skip", f"skipped: {skipped}"
    except Failed as failed:
        mark, said = "FAIL", str(failed)
    print(f"{mark}  {title}: {said}", flush=True)
    return mark != "FAIL"


def http_url(text: str) -> str:
    """An address without what the paths begin with."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} must begin with http:// or https://")
    return text.rstrip("/").removesuffix("/v1")


def main() -> int:
    """Check; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", type=http_url, default="http://localhost:7860", help="the server [%(default)s]")
    parser.add_argument("--voice", help="id of the voice to speak with [the first of GET /voices]")
    parser.add_argument(
        "--api-key", default=os.environ.get("DIA_API_KEY"), help="key, where the server wants one [$DIA_API_KEY]"
    )
    arguments = parser.parse_args()
    server = Server(arguments.url, arguments.api_key)
    try:
        server.choose_voice(arguments.voice)
        print(f"{server.url}, voice {server.voice}", flush=True)
        results = [run(title, check, server) for title, check in CHECKS.items()]
    except Unusable as reason:
        print(reason, file=sys.stderr)
        return 1
    print(f"{results.count(False)} of {len(results)} checks failed" if not all(results) else "All is as promised")
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
