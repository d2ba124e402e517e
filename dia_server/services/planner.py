"""From requests to plans, with the voices and recordings that there are now."""

from __future__ import annotations

from collections.abc import Mapping

from dia_server.errors import ModelNotFound, VoiceNotFound
from dia_server.pool.choice import Choice
from dia_server.services.casting import imitates, prompts_of
from dia_server.services.model_names import choose_model
from dia_server.services.plan import Plan, SpeechRequest, find_voice, make_plan
from dia_server.services.references import References
from dia_server.settings import Settings
from dia_server.voices.store import VoiceStore
from dia_server.voices.text import Voice


class Planner:
    """Plans requests."""

    def __init__(self, settings: Settings, choice: Choice, voices: VoiceStore, references: References) -> None:
        self._settings = settings
        self._choice = choice
        self._voices = voices
        self._references = references

    async def plan(self, request: SpeechRequest) -> Plan:
        """Check a request and fix all that its audio depends on, once its recordings can be referred to.

        Raises:
            BadInput, NothingToSpeak, VoiceNotFound, ModelNotFound: the request can't be served.
        """
        # Looked up once, since it looks at every file.
        there, settings = self._voices.list(), self._choice.applied(self._settings)
        if wanted := _wanted_prompts(request, there, settings):
            await self._references.prepare(wanted)
        return make_plan(request, there=there, references=self._references, settings=settings)


def _wanted_prompts(request: SpeechRequest, there: Mapping[str, Voice], settings: Settings) -> set[str]:
    """The ids of the prompts that a plan of the request will refer to; none for a request that has no plan."""
    if request.recording is not None:
        return set()
    try:
        manifest, _ = choose_model(request.model, settings)
        voice_id, _ = find_voice(request.voice, field=request.voice_field, there=there, settings=settings)
    except (ModelNotFound, VoiceNotFound):
        return set()
    return prompts_of(voice_id, there, settings.voice_aliases) if imitates(manifest) else set()
