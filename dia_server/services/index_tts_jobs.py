"""IndexTTS2's tasks as jobs: their recordings are decoded, they are spoken, and copied to where the client wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from dia_server.blobs import Blobs
from dia_server.errors import BadInput, DiaServerError, GenerationFailed
from dia_server.models import registry
from dia_server.services import recipe
from dia_server.services.conditioning import Conditioning
from dia_server.services.home_files import write_output
from dia_server.services.index_tts import PlannedTask
from dia_server.services.plan import Plan
from dia_server.services.references import check_recording
from dia_server.services.speech_jobs import SpeechJobs
from dia_server.settings import Settings


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's payload holds; `output_path` as it was sent."""

    plan: msgspec.Raw
    problem: str
    output_path: str | None


def payload_of(task: PlannedTask, output_path: str | None) -> bytes:
    """What the handler gets."""
    plan = msgspec.Raw(recipe.encode(task.plan))
    return msgspec.json.encode(Order(plan=plan, problem=task.problem, output_path=output_path))


class IndexTtsJobs:
    """The handler of tasks."""

    def __init__(
        self, settings: Settings, home: Path, blobs: Blobs, conditioning: Conditioning, speech: SpeechJobs
    ) -> None:
        self._settings = settings
        self._home = home
        self._blobs = blobs
        self._conditioning = conditioning
        self._speech = speech

    async def run(
        self, job_id: str, payload: bytes, stem: Path, report: Callable[[float], None]
    ) -> tuple[str | None, dict[str, Any]]:
        """Speak a task into a file; see `jobs.runner.Handler`.

        Raises:
            DiaServerError: it can't be done, now or at all.
            OSError: the file can't be written.
        """
        order = msgspec.json.decode(payload, type=Order)
        if order.problem:
            raise BadInput(order.problem)
        try:
            file, result = await self._speak(job_id, order, stem, report)
            if order.output_path is not None:
                source = stem.with_name(file)
                await asyncio.to_thread(write_output, self._home, order.output_path, "output_path", source)
        except (DiaServerError, OSError):
            stem.with_name(f"{stem.name}.wav").unlink(missing_ok=True)
            raise
        return file, result

    async def _speak(
        self, job_id: str, order: Order, stem: Path, report: Callable[[float], None]
    ) -> tuple[str, dict[str, Any]]:
        seconds = self._settings.task_timeout_seconds
        try:
            async with asyncio.timeout(seconds) as deadline:
                plan = await self._conditioning.applied(recipe.decode(order.plan, self._blobs))
                _check_recordings(plan)
                return await self._speech.speak(job_id, plan, stem, report)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise GenerationFailed(f"The task took longer than {seconds:g} s (task_timeout_seconds)") from None


def _check_recordings(plan: Plan) -> None:
    manifest = registry.manifest(plan.model)
    for task in plan.tasks:
        for reference in task.references.values():
            check_recording(reference, manifest, "spk_audio_prompt")
