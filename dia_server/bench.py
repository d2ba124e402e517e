"""How fast a speech server answers, as listeners see it: `dia-server bench`."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import msgspec
import uvicorn
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from dia_server import __version__
from dia_server.audio.encode import FORMATS
from dia_server.errors import BadInput
from dia_server.listener import OK, Answer, Limit, Listener, Target, listen

# OpenAI's pcm has no header that says more.
PCM_BYTES_PER_SECOND = 48_000
# Of a core; beyond that, the client's own queue is part of what it measures.
BUSY_CLIENT = 0.8
TO_DO = {
    401: "give one that counts with --api-key, or in DIA_API_KEY",
    403: "give one that counts with --api-key, or in DIA_API_KEY",
    404: "look at --voice, --model and the address",
    429: "wait for a minute, or raise the server's limit",
    503: "wait until the server is ready and idle",
}


class Percentiles(msgspec.Struct):
    """Of seconds, or of a ratio."""

    p50: float
    p95: float
    p99: float


class Level(msgspec.Struct, kw_only=True):
    """What so many listeners got. Percentiles are of the whole clips alone, and null where there was none.

    Attributes:
        seconds: from the first request to the end of the last answer.
        clips: answers of status 200 that were audio to the end.
        audio_seconds: of these clips.
        audio_seconds_per_second: by all listeners together.
        real_time_factor: seconds that a clip took, per second of its audio.
        others: all other answers by status; `broken` ended early, `no audio` was 200 with something else.
        client_load: share of a processor core that the measuring itself took.
    """

    clients: int
    seconds: float
    clips: int
    audio_seconds: float
    clips_per_second: float
    audio_seconds_per_second: float
    first_byte_seconds: Percentiles | None
    clip_seconds: Percentiles | None
    real_time_factor: Percentiles | None
    others: dict[str, int]
    client_load: float


class Report(msgspec.Struct, kw_only=True):
    """What `--json` writes."""

    version: str
    at: datetime
    url: str
    request: dict[str, str]
    levels: list[Level]


class Tally:
    """Adds up the answers of a level."""

    def __init__(self, audio_format: str) -> None:
        self._format = audio_format
        self.clips: list[Answer] = []
        self.lengths: list[float] = []
        self.others: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Answers of all kinds."""
        return len(self.clips) + self.others.total()

    def add(self, answer: Answer) -> None:
        """Note an answer; its body is looked at and dropped."""
        length = clip_seconds(answer, self._format)
        if length:
            self.clips.append(answer._replace(body=b""))
            self.lengths.append(length)
        else:
            self.others[{0: "broken", OK: "no audio"}.get(answer.status, str(answer.status))] += 1

    def level(self, clients: int, seconds: float, load: float) -> Level:
        """What to tell of it."""
        factors = [clip.seconds / length for clip, length in zip(self.clips, self.lengths, strict=True)]
        return Level(
            clients=clients,
            seconds=seconds,
            clips=len(self.clips),
            audio_seconds=sum(self.lengths),
            clips_per_second=len(self.clips) / seconds,
            audio_seconds_per_second=sum(self.lengths) / seconds,
            first_byte_seconds=percentiles([clip.first_byte for clip in self.clips]),
            clip_seconds=percentiles([clip.seconds for clip in self.clips]),
            real_time_factor=percentiles(factors),
            others=dict(sorted(self.others.items())),
            client_load=load,
        )


def bench(
    target: Target,
    wanted: dict[str, str],
    *,
    clients: Sequence[int],
    requests: int | None,
    seconds: float,
    output: Path | None,
) -> None:
    """Measure each number of clients in turn, and show a table; `wanted` is the body of the requests.

    Raises:
        BadInput: the server can't be reached or doesn't answer with audio, or the file can't be written.
    """
    if wanted["response_format"] not in FORMATS:
        raise BadInput(f"Can't measure '{wanted['response_format']}'; formats are {', '.join(FORMATS)}")
    if output is not None and not output.parent.is_dir():
        raise BadInput(f"Can't write {output}: there is no folder {output.parent}")
    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        levels = runner.run(_levels(target, wanted, clients, requests, seconds))
    _show(levels, target, wanted)
    if output is not None:
        report = Report(version=__version__, at=datetime.now(UTC), url=str(target), request=wanted, levels=levels)
        try:
            output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        except OSError as error:
            raise BadInput(f"Can't write {output}: {error.strerror}") from None


def clip_seconds(answer: Answer, audio_format: str) -> float:
    """Length of a clip, by its packets, without decoding it; 0 if it is no audio."""
    if answer.status != OK or answer.is_text:
        return 0.0
    if audio_format == "pcm":
        return len(answer.body) / PCM_BYTES_PER_SECOND
    try:
        with av.open(io.BytesIO(answer.body), "r") as container:
            packets = container.demux(audio=0)
            return float(sum(packet.duration * packet.time_base for packet in packets if packet.duration))
    except (av.FFmpegError, IndexError, ValueError):
        return 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """The usual three; None of nothing."""
    return Percentiles(*(percentile(values, share) for share in (0.5, 0.95, 0.99))) if values else None


async def _levels(
    target: Target, wanted: dict[str, str], clients: Sequence[int], requests: int | None, seconds: float
) -> list[Level]:
    body = msgspec.json.encode(wanted)
    await _try(target, body, wanted["response_format"])
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[clips]}"), TimeElapsedColumn())
    levels = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for count in clients:
            tally = Tally(wanted["response_format"])
            bar = progress.add_task(f"{count} clients", total=requests or seconds, clips="")
            heard = _noting(tally, progress, bar, requests)
            cpu = time.process_time()
            try:
                taken = await listen(
                    target, body, clients=count, limit=lambda: Limit(requests=requests, seconds=seconds), heard=heard
                )
            except OSError as error:
                raise _unreachable(target, error) from None
            levels.append(tally.level(count, taken, (time.process_time() - cpu) / taken))
    return levels


def _noting(tally: Tally, progress: Progress, bar: Any, requests: int | None) -> Callable[[Answer], None]:
    started = time.perf_counter()

    def heard(answer: Answer) -> None:
        tally.add(answer)
        done = tally.count if requests else time.perf_counter() - started
        progress.update(bar, completed=done, clips=f"{len(tally.clips)} clips")

    return heard


async def _try(target: Target, body: bytes, audio_format: str) -> None:
    """One request that doesn't count: it warms the server up, and finds out what is wrong.

    Raises:
        BadInput: the answer is not the audio that was asked for.
    """
    listener = Listener(target)
    try:
        answer = await listener.ask(target.request(body))
    except OSError as error:
        raise _unreachable(target, error) from None
    finally:
        listener.close()
    if answer.status == 0:
        raise BadInput(f"{target} broke off its answer; the server's log may say why")
    if answer.status != OK:
        advice = TO_DO.get(answer.status)
        raise BadInput(f"{target} answered {answer.status}: {_words(answer.body)}" + (f"; {advice}" if advice else ""))
    if not clip_seconds(answer, audio_format):
        raise BadInput(f"{target} answered 200, but that was no {audio_format}; choose another --format or address")


def _unreachable(target: Target, error: OSError) -> BadInput:
    reason = str(error) or type(error).__name__
    return BadInput(f"{target} can't be reached: {reason}. Start the server, or give another address")


def _words(body: bytes) -> str:
    """What a refusal says, in OpenAI's shape or another."""
    try:
        content = msgspec.json.decode(body)
        return str(content["error"]["message"] if "error" in content else content["detail"])
    except (msgspec.DecodeError, KeyError, TypeError, UnicodeDecodeError):
        return body[:200].decode(errors="replace")


def _show(levels: list[Level], target: Target, wanted: dict[str, str]) -> None:
    title = f"{target}, {wanted['response_format']}, {len(wanted['input'])} characters"
    numbers = ("clients", "clips", "clips\n/s", "audio\ns/s")
    spreads = ("", "first\nbyte, ms", "whole\nclip, ms", "real-time\nfactor")
    columns = [Column(name, justify="right") for name in (*numbers, *spreads)]
    table = Table(*columns, "other\nanswers", title=title, title_justify="left", box=SIMPLE, collapse_padding=True)
    for level in levels:
        table.add_row(
            str(level.clients),
            str(level.clips),
            f"{level.clips_per_second:.1f}",
            f"{level.audio_seconds_per_second:.1f}",
            "\n".join(Percentiles.__struct_fields__),
            _cell(level.first_byte_seconds, 1e3, 1),
            _cell(level.clip_seconds, 1e3, 1),
            _cell(level.real_time_factor, 1, 3),
            "\n".join(f"{count} x {kind}" for kind, count in level.others.items()),
        )
    console = Console()
    console.print(table)
    load = max(level.client_load for level in levels)
    console.print(f"The measuring itself took {load:.0%} of a processor core at most.", highlight=False)
    if load > BUSY_CLIENT:
        console.print("That is its limit, so that the server is faster than it seems.", style="yellow")


def _cell(values: Percentiles | None, factor: float, digits: int) -> str:
    if values is None:
        return "-"
    return "\n".join(f"{value * factor:.{digits}f}" for value in msgspec.structs.astuple(values))
