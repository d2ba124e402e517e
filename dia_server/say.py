"""Speech into a file without a server: the same plan, pool and encoders, so the same bytes for the same seed."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from dia_server.audio.encode import FORMATS
from dia_server.blobs import Blobs
from dia_server.errors import BadInput
from dia_server.files import replacing
from dia_server.pool.pool import running_pool
from dia_server.services.captions import lines_of, srt
from dia_server.services.plan import Plan, SpeechRequest, check_models, prepare_plan
from dia_server.services.references import References
from dia_server.services.speech import Account, Speech
from dia_server.settings import Settings
from dia_server.voices.prompts import FOLDER, PromptStore
from dia_server.voices.store import VoiceStore, voices_of

console = Console(stderr=True, markup=False)


def say(settings: Settings, home: Path, request: SpeechRequest, output: Path, captions: Path | None) -> None:
    """Write the clip, and its captions if a file for them is named; files appear when they are whole.

    Raises:
        DiaServerError: unknown format or voice, nothing to speak, the model failed, a file can't be written.
    """
    if request.format not in FORMATS:
        names = ", ".join(f".{name}" for name in FORMATS)
        raise BadInput(f"Can't write '{output.name}': the name must end in one of {names}")
    for file in (output, captions):
        if file is not None and not file.parent.is_dir():
            raise BadInput(f"Can't write {file}: there is no folder {file.parent}")
    # Limits on a request protect servers; here is only one listener.
    settings = msgspec.structs.replace(
        settings, max_input_characters=max(1, len(request.text)), max_audio_seconds=float("inf")
    )
    try:
        asyncio.run(_say(settings, home, request, output, captions))
    except OSError as error:
        raise BadInput(f"Can't write {error.filename or output}: {error.strerror}") from None


async def _say(settings: Settings, home: Path, request: SpeechRequest, output: Path, captions: Path | None) -> None:
    check_models(settings)
    voices = VoiceStore(voices_of(home))
    account = Account()
    with tempfile.TemporaryDirectory() as folder:
        references = References(PromptStore(home / FOLDER, settings), Blobs(Path(folder)))
        plan = await prepare_plan(request, voices=voices, references=references, settings=settings)
        async with running_pool(settings) as pool:
            speech = Speech(settings, pool, voices, references)
            try:
                await _write(speech, plan, account, output)
            finally:
                speech.close()
    console.print(f"{output}: {account.seconds:.1f} s, voice {plan.voice}, model {plan.model}, seed {plan.seed}")
    if request.instructions:
        console.print(f"instructions understood: {', '.join(plan.understood) or 'nothing'}")
    if plan.warning:
        console.print(plan.warning, style="yellow")
    if captions is not None:
        _write_captions(account, plan, captions)


def _write_captions(account: Account, plan: Plan, captions: Path) -> None:
    if not account.words:
        raise BadInput(f"Model '{plan.model}' tells no times of its words, so there are no captions")
    with replacing(captions) as file:
        file.write(srt(lines_of(account.words)).encode())
    console.print(f"{captions}: {len(account.words)} words")


async def _write(speech: Speech, plan: Plan, account: Account, output: Path) -> None:
    columns = (TextColumn("speaking"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress, replacing(output) as file:
        bar = progress.add_task("", total=plan.segments)
        pieces = []
        async for piece in speech.stream(plan, account):
            pieces.append(piece)
            progress.update(bar, completed=account.segments)
        file.write(FORMATS[plan.format].whole(b"".join(pieces)))
