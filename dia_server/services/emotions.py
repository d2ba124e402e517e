"""Which emotions a text has: by words, or by the model that the settings name."""

from __future__ import annotations

import asyncio

from dia_server.errors import ModelUnavailable
from dia_server.models import registry
from dia_server.pool.pool import Pool
from dia_server.script.emotions import classify
from dia_server.settings import Settings
from dia_server.tasks import Classify


class Emotions:
    """The service that tells them."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool

    async def of_text(self, text: str) -> tuple[float, ...]:
        """Weights from 0 to 1 in the order of `EMOTIONS`, 1 at most together.

        Raises:
            ModelUnavailable: the model is not installed, or its weights are not here.
            DiaServerError: no work is taken now, or it failed.
        """
        model = self._settings.emotion_model
        if model is None:
            return await asyncio.to_thread(classify, text)
        manifest = registry.manifest(model)
        if manifest.missing_packages():
            raise ModelUnavailable(
                f"Emotion from text needs the model '{model}' (`emotion_model`), which is not installed here: run "
                f"`{manifest.installation}`, and start the server again; or set `emotion_model` to null",
                retry_after=60,
            )
        with self._pool.open(model) as clip:
            run = clip.run(Classify(model=model, text=text), urgent=True)
            async for _ in run:
                pass
        return tuple(run.value)
