"""What the model that speaks by itself asks of recordings, told when they are stored."""

from __future__ import annotations

from dia_server.models import registry
from dia_server.pool.choice import Choice
from dia_server.services.casting import imitates
from dia_server.services.references import objection
from dia_server.settings import Settings
from dia_server.voices.prompts import PromptStore


class Demands:
    """Those of the default model; a client that names another one learns of that one's when it speaks."""

    def __init__(self, settings: Settings, choice: Choice, prompts: PromptStore) -> None:
        self._settings = settings
        self._choice = choice
        self._prompts = prompts

    def unmet(self, prompt_id: str | None, transcript: str | None = None) -> str | None:
        """Why a prompt can't be imitated as it is, and what to do; None if it can, or isn't there.

        `transcript` is a voice's own, which stands before the prompt's.
        """
        manifest = registry.manifest(self._choice.default(self._settings)[0])
        prompt = None if prompt_id is None else self._prompts.list().get(prompt_id)
        if prompt_id is None or prompt is None or not imitates(manifest):
            return None
        found = objection(manifest, prompt_id, prompt.sound.seconds, transcript or prompt.transcript)
        return f"Speech with it is refused for now: {found}" if found else None
