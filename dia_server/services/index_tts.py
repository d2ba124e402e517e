"""IndexTTS2's tasks: what they ask for, made into a plan."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from math import floor
from typing import Any

import msgspec

from dia_server.errors import BadInput, ModelUnavailable
from dia_server.models import registry
from dia_server.pool.choice import Choice
from dia_server.services.casting import imitates
from dia_server.services.emotions import Emotions
from dia_server.services.model_names import AUTO_MODEL, DEFAULT_MODEL_NAMES, default_model
from dia_server.services.plan import Plan, SpeechRequest
from dia_server.services.planner import Planner
from dia_server.services.recordings import Recording, Recordings
from dia_server.settings import Settings
from dia_server.tasks import EMOTIONS, Delivery

KIND = "index_tts"
# The model that the tasks are named for.
INDEX_TTS = "index-tts2"
# As the model's own `normalize_emo_vec` has it: the rest stays the speaker's own manner.
MOST_EMOTION = 0.8
# Of weights, ten thousandths count; one that is a whole number of them may be a hair below it as a float.
PARTS, SLACK = 10_000, 1e-6
# The names of the fields that say how to feel, by the one that wins; an earlier one discards those behind it.
_SOURCES = {
    "use_emo_text": {"use_emo_text", "emo_text", "emo_alpha"},
    "emo_vector": {"emo_vector", "emo_alpha"},
    "emo_audio_prompt": {"emo_audio_prompt", "emo_alpha"},
}


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What someone wants to hear, in IndexTTS2's words.

    Attributes:
        parameters: for the model, by name, those with their defaults too.
        sent: the names of all fields that the client gave a value.
    """

    text: str
    spk_audio_prompt: str
    emo_vector: tuple[float, ...] = ()
    emo_audio_prompt: str | None = None
    emo_alpha: float = 1.0
    use_emo_text: bool = False
    emo_text: str | None = None
    seed: int | None = None
    model: str | None = None
    parameters: dict[str, Any] = {}
    sent: AbstractSet[str] = frozenset()

    @property
    def source(self) -> str | None:
        """The field that says how to feel; None if none does."""
        if self.use_emo_text:
            return "use_emo_text"
        if any(self.emo_vector):
            return "emo_vector"
        return "emo_audio_prompt" if self.emo_audio_prompt is not None else None


class PlannedTask(msgspec.Struct, frozen=True, kw_only=True):
    """What will be spoken.

    Attributes:
        problem: why it can't be, which shows only when it is its turn.
        unused: the fields that the client sent in vain.
        emotion: the weights that count, by name, those that are not 0.
    """

    plan: Plan
    problem: str
    unused: tuple[str, ...]
    emotion: dict[str, float]


class IndexTts:
    """Plans tasks."""

    def __init__(
        self, settings: Settings, choice: Choice, planner: Planner, recordings: Recordings, emotions: Emotions
    ) -> None:
        self._settings = settings
        self._choice = choice
        self._planner = planner
        self._recordings = recordings
        self._emotions = emotions

    async def plan(self, request: TaskRequest) -> PlannedTask:
        """Check a task, and fix all that its audio depends on.

        Raises:
            BadInput: it can't be served as it stands.
            ModelUnavailable: its model is not installed here.
        """
        model = self._model(request.model)
        speaker = await self._recordings.find(request.spk_audio_prompt, "spk_audio_prompt")
        manner = None
        if request.emo_audio_prompt is not None:
            manner = await self._recordings.manner(request.emo_audio_prompt, "emo_audio_prompt")
        wanted = SpeechRequest(
            text=request.text,
            voice=speaker.label,
            recording=speaker.reference,
            format="wav",
            model=model,
            seed=request.seed,
            delivery=await self._delivery(request, manner),
            parameters=request.parameters,
            text_field="text",
            voice_field="spk_audio_prompt",
        )
        plan = await self._planner.plan(wanted)
        problems = [speaker.problem]
        if manner is not None and request.source == "emo_audio_prompt" and "emotion_reference" not in plan.unused:
            problems.append(manner.problem)
        return PlannedTask(
            plan=plan,
            problem="; ".join(filter(None, problems)),
            unused=_unused(request, plan),
            emotion=_emotion(plan),
        )

    def _model(self, name: str | None) -> str:
        settings, known = self._choice.applied(self._settings), registry.speaking()
        wanted = settings.index_tts.model if name is None else name
        if wanted == "auto":
            wanted = _best(settings)
        if wanted not in known and wanted not in DEFAULT_MODEL_NAMES:
            raise BadInput(f"'model': there is no model '{wanted[:100]}'; there are {', '.join(known)}", param="model")
        speaking = default_model(settings) if wanted in DEFAULT_MODEL_NAMES else wanted
        if settings.lane_of(speaking) is None:
            raise ModelUnavailable(
                f"No lane runs model '{speaking}'; add it to `lanes` in config.yaml", param="model", retry_after=60
            )
        return wanted

    async def _delivery(self, request: TaskRequest, manner: Recording | None) -> Delivery | None:
        match request.source:
            case "use_emo_text":
                name = "emo_text" if request.emo_text and request.emo_text.strip() else "text"
                text, most = getattr(request, name), self._settings.max_input_characters
                if len(text) > most:
                    raise BadInput(f"'{name}' has {len(text)} characters, allowed are {most}", param=name)
                return Delivery(emotion=_scaled(await self._emotions.of_text(text), request.emo_alpha))
            case "emo_vector":
                return Delivery(emotion=_scaled(request.emo_vector, request.emo_alpha))
            case "emo_audio_prompt" if manner is not None:
                return Delivery(emotion_reference=manner.reference, emotion_strength=request.emo_alpha)
        return None


def _best(settings: Settings) -> str:
    """The model that `auto` stands for: the one that tasks are for if it is set up, or the best one that imitates."""
    if INDEX_TTS in settings.models:
        return INDEX_TTS
    default = default_model(settings)
    return default if imitates(registry.manifest(default)) else AUTO_MODEL


def _scaled(weights: tuple[float, ...], share: float) -> tuple[float, ...]:
    """Weights whose sum is `MOST_EMOTION` at most, of which a share is wanted."""
    # Of the largest finite numbers the sum would not be one.
    most = max(1.0, *weights)
    small = [weight / most for weight in weights]
    factor = share * MOST_EMOTION / max(MOST_EMOTION, sum(small))
    # As upstream cuts them, and as they are told: who sends them back gets the same sound.
    return tuple(floor(weight * factor * PARTS + SLACK) / PARTS for weight in small)


def _emotion(plan: Plan) -> dict[str, float]:
    """The weights with which a plan is spoken, a voice's own too, by name."""
    if "emotion" not in registry.manifest(plan.model).directable:
        return {}
    weights = zip(EMOTIONS, plan.tasks[0].delivery.emotion, strict=False)
    return {name: weight for name, weight in weights if weight > 0}


def _unused(request: TaskRequest, plan: Plan) -> tuple[str, ...]:
    """What was sent and had no effect; what asks for nothing has had it."""
    source = request.source
    acts = {"use_emo_text": "emotion", "emo_vector": "emotion", "emo_audio_prompt": "emotion_reference"}
    heard = _SOURCES[source] if source is not None and acts[source] not in plan.unused else set()
    felt = set().union(*_SOURCES.values()) - heard
    if source is not None and request.emo_alpha == 0:
        felt |= _SOURCES[source] - {"emo_alpha"}
    if not request.use_emo_text:
        felt -= {"use_emo_text"}
    if not any(request.emo_vector):
        felt -= {"emo_vector"}
    idle = felt | set(plan.unused)
    if "audio_prompt" in plan.unused:
        idle |= {"spk_audio_prompt"}
    return tuple(sorted(idle & request.sent))
