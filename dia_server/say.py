"""Speech into a file without a server: the same plan, pool and encoders, so the same bytes for the same seed."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from dia_server.audio.encode import FORMATS
from dia_server.blobs import FOLDER as BLOBS
from dia_server.blobs import Blobs
from dia_server.errors import BadInput
from dia_server.files import replacing
from dia_server.models import registry
from dia_server.pool.choice import choose
from dia_server.pool.devices import Devices
from dia_server.pool.pool import running_pool
from dia_server.services import outputs
from dia_server.services.account import Account
from dia_server.services.captions import lines_of, srt
from dia_server.services.model_names import check_models
from dia_server.services.plan import Plan, SpeechRequest
from dia_server.services.planner import Planner
from dia_server.services.references import References
from dia_server.services.speech import Speech
from dia_server.settings import Settings
from dia_server.voices.prompts import FOLDER, PromptStore
from dia_server.voices.store import VoiceStore, voices_of

console = Console(stderr=True, markup=False)


def say(settings: Settings, home: Path, request: SpeechRequest, output: Path, captions: Path | None) -> None:
    """Write the clip, and its captions if a file for them is named; files appear when they are whole.

    Raises:
        DiaServerError: unknown format or voice, nothing to speak, the model failed, a file can't be written.
    """
    _check_files(output, captions)
    # Limits on a request protect servers; here is only one listener.
    settings = msgspec.structs.replace(settings, max_input_characters=max(1, len(request.text)))
    check_models(settings)
    choice = choose(settings, Devices(settings))
    with tempfile.TemporaryDirectory() as folder:
        references = References(PromptStore(home / FOLDER, settings), Blobs(Path(folder)))
        plan = asyncio.run(Planner(settings, choice, VoiceStore(voices_of(home)), references).plan(request))
        _speak(settings, plan, output, captions)
    if request.instructions:
        console.print(f"instructions understood: {', '.join(plan.understood) or 'nothing'}")
    if plan.warning:
        console.print(plan.warning, style="yellow")


def say_again(settings: Settings, home: Path, sidecar: Path, output: Path, captions: Path | None) -> None:
    """Write a clip that a server saved once more, from its sidecar, and tell whether the bytes are the same.

    Raises:
        DiaServerError: what it was made with is gone, or as for `say`.
    """
    _check_files(output, captions)
    saved, plan = outputs.read(sidecar, Blobs(home / BLOBS))
    if output.suffix != f".{FORMATS[plan.format].extension}":
        raise BadInput(f"Can't write '{output.name}': the saved clip is {plan.format}, so the name must end in that")
    account = _speak(settings, plan, output, captions)
    if hashlib.sha256(output.read_bytes()).hexdigest() == saved.sha256:
        console.print("the same bytes as the saved clip")
    else:
        console.print(
            f"not the same bytes as the saved clip, which was made by {saved.fingerprint}, not {account.fingerprint}",
            style="yellow",
        )


def _check_files(output: Path, captions: Path | None) -> None:
    extension = output.suffix.removeprefix(".").lower()
    if extension not in FORMATS:
        names = ", ".join(f".{name}" for name in FORMATS)
        raise BadInput(f"Can't write '{output.name}': the name must end in one of {names}")
    for file in (output, captions):
        if file is not None and not file.parent.is_dir():
            raise BadInput(f"Can't write {file}: there is no folder {file.parent}")


def _speak(settings: Settings, plan: Plan, output: Path, captions: Path | None) -> Account:
    check_models(settings)
    if captions is not None and not registry.manifest(plan.model).word_times:
        raise BadInput(f"Model '{plan.model}' tells no times of its words, so there are no captions")
    account = Account()
    try:
        asyncio.run(_write(msgspec.structs.replace(settings, max_audio_seconds=float("inf")), plan, account, output))
        console.print(f"{output}: {account.seconds:.1f} s, voice {plan.voice}, model {plan.model}, seed {plan.seed}")
        if captions is not None:
            _write_captions(account, captions)
    except OSError as error:
        raise BadInput(f"Can't write {error.filename or output}: {error.strerror}") from None
    return account


def _write_captions(account: Account, captions: Path) -> None:
    with replacing(captions) as file:
        file.write(srt(lines_of(account.words)).encode())
    console.print(f"{captions}: {len(account.words)} words")


async def _write(settings: Settings, plan: Plan, account: Account, output: Path) -> None:
    columns = (TextColumn("speaking"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    async with AsyncExitStack() as running:
        speech = Speech(settings, await running.enter_async_context(running_pool(settings)))
        running.callback(speech.close)
        progress = running.enter_context(Progress(*columns, console=console, transient=True))
        file = running.enter_context(replacing(output))
        bar = progress.add_task("", total=len(plan.tasks))
        pieces = []
        async for piece in speech.stream(plan, account):
            pieces.append(piece)
            progress.update(bar, completed=account.segments)
        file.write(FORMATS[plan.format].whole(b"".join(pieces)))
