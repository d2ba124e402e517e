"""The plan of a clip: everything that its bytes depend on, fixed before the first task."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import msgspec

from dia_server.errors import BadInput, VoiceNotFound
from dia_server.models import registry
from dia_server.models.protocol import Manifest
from dia_server.script.dialogue import Pause, Script, parse_script, speakers, turns
from dia_server.script.instructions import understand
from dia_server.services.casting import Casting, Role, cast_roles, imitates
from dia_server.services.model_names import LONGEST_NAME, choose_model
from dia_server.services.references import References
from dia_server.settings import Settings
from dia_server.tasks import Delivery, Reference, Speak, derive_seed
from dia_server.voices.text import Voice

SPEEDS = (0.25, 4.0)
DRAWN_SEED_BITS = 31  # JavaScript clients read seeds back as doubles


class SpeechRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What someone wants to hear.

    Attributes:
        text: may hold `[S1]`, `[S2]` and non-verbal tags.
        voice: id or alias of a voice.
        format: a key of `FORMATS`.
        model: a model's name, or any name that clients send for the default one.
        speed: 0.25 to 4, without a change of pitch.
        seed: 0 to 2**63-1; None takes the voice's own, or draws one.
        instructions: how to say it, in words; those of the vocabulary count.
        delivery: how to say it, instead of `instructions`.
        recording: whom to sound like, instead of a voice; `voice` only names it then.
        parameters: what the client set besides, by name; `max_tokens` ends the clip behind so many of the model's
            frames, `timestamp_granularities` asks for times, and the model gets those that its options have.
        text_field: what the client calls `text`, for error messages.
        voice_field: what the client calls `voice`.
    """

    text: str
    voice: str
    format: str
    model: str = "dia"
    speed: float = 1.0
    seed: int | None = None
    instructions: str = ""
    delivery: Delivery | None = None
    recording: Reference | None = None
    parameters: dict[str, Any] = {}
    text_field: str = "input"
    voice_field: str = "voice"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A clip to be made; as JSON it outlives the process.

    Attributes:
        text: as it was sent.
        audio_prompt: id of the recording that the voice imitates, if the model can.
        items: the tasks and pauses in order.
        sample_rate: of the model, in Hz.
        tempo: the part of the speed that the model doesn't do itself; pauses are written for this tempo.
        most_samples: the clip ends behind so many, those of pauses included; None for all that there are.
        understood: the terms of the instructions that count.
        unused: names of parameters that have no effect.
        warning: what the client should know.
    """

    text: str
    model: str
    voice: str
    audio_prompt: str | None
    seed: int
    items: tuple[Speak | Pause, ...]
    sample_rate: int
    tempo: float
    format: str
    most_samples: int | None = None
    understood: tuple[str, ...]
    unused: tuple[str, ...]
    warning: str | None

    @property
    def tasks(self) -> list[Speak]:
        """The items that are spoken."""
        return [item for item in self.items if isinstance(item, Speak)]

    @property
    def references(self) -> list[Reference]:
        """The recordings that are imitated, in voice or manner, as often as they are."""
        manners = [task.delivery.emotion_reference for task in self.tasks]
        voices = [reference for task in self.tasks for reference in task.references.values()]
        return [*voices, *(reference for reference in manners if reference)]

    @property
    def script(self) -> str:
        """What is spoken, with a tag for each turn."""
        said = [turn for task in self.tasks for turn in turns(task.text, task.speaker) if turn[1]]
        spoken = groupby(said, key=lambda turn: turn[0])
        return " ".join(f"[{speaker}] {' '.join(words for _, words in each)}" for speaker, each in spoken)


def find_voice(name: str, *, field: str, there: Mapping[str, Voice], settings: Settings) -> tuple[str, Voice]:
    """A voice by its id or an alias, with its id.

    Raises:
        VoiceNotFound: the message lists the ids that there are.
    """
    wanted = name.strip()[:LONGEST_NAME]
    voice_id = wanted if wanted in there else settings.voice_aliases.get(wanted, wanted)
    if voice_id in there:
        return voice_id, there[voice_id]
    missing = "not found" if voice_id == wanted else f"stands for '{voice_id}' (voice_aliases), which is not there"
    raise VoiceNotFound(f"Voice '{wanted}' {missing}. Available voices: {list(there)}", param=field)


def make_plan(
    request: SpeechRequest, *, there: Mapping[str, Voice], references: References, settings: Settings
) -> Plan:
    """Check a request and fix all that its audio depends on; `there` are the voices, by id.

    Raises:
        BadInput, NothingToSpeak, VoiceNotFound, ModelNotFound: the request can't be served.
    """
    _check_bounds(request, settings)
    manifest, warning = choose_model(request.model, settings)
    own = _own_role(request, there, settings)
    voice = own.voice
    script = parse_script(
        request.text,
        primary_speaker=voice.primary_speaker,
        manifest=manifest,
        segment_characters=settings.segment_characters,
        max_pause_seconds=settings.max_pause_seconds,
        param=request.text_field,
    )
    seed = request.seed if request.seed is not None else voice.voice_seed
    seed = secrets.randbits(DRAWN_SEED_BITS) if seed is None else seed
    direction = understand(request.instructions)
    delivery = request.delivery or direction.delivery
    speed = _clamp(request.speed * delivery.speed, SPEEDS)
    model_speed = _clamp(speed, manifest.speed)
    roles = cast_roles(speakers(script), own, there, settings.voice_aliases, request.voice_field)
    wanted = msgspec.structs.replace(delivery, speed=model_speed)
    casting = Casting(manifest, wanted, request.parameters, references, field=request.voice_field)
    cast = casting.tasks(own, roles)
    most_frames = request.parameters.get("max_tokens")
    notes = [warning] if warning else []
    notes += casting.compromises(own, roles, cast)
    return Plan(
        text=request.text,
        model=manifest.name,
        voice=own.voice_id,
        audio_prompt=voice.audio_prompt if imitates(manifest) else None,
        seed=seed,
        items=tuple(_items(script, cast, manifest, seed, (model_speed, speed / model_speed))),
        sample_rate=manifest.sample_rate,
        tempo=speed / model_speed,
        format=request.format,
        most_samples=None if most_frames is None else most_frames * manifest.hop_length,
        understood=direction.understood,
        unused=tuple(sorted(_unused(request, manifest, delivery, own, settings) | _idle(request, manifest, cast))),
        warning="; ".join(notes) or None,
    )


def _check_bounds(request: SpeechRequest, settings: Settings) -> None:
    if len(request.text) > settings.max_input_characters:
        raise BadInput(
            f"The text has {len(request.text)} characters, allowed are {settings.max_input_characters}; "
            "send it in parts, or raise max_input_characters",
            param=request.text_field,
        )
    if len(request.instructions) > settings.max_input_characters:
        raise BadInput(
            f"The instructions have {len(request.instructions)} characters, allowed are "
            f"{settings.max_input_characters}",
            param="instructions",
        )
    if not SPEEDS[0] <= request.speed <= SPEEDS[1]:
        raise BadInput(f"'speed' must be from {SPEEDS[0]} to {SPEEDS[1]}", param="speed")


def _own_role(request: SpeechRequest, there: Mapping[str, Voice], settings: Settings) -> Role:
    if request.recording is not None:
        return Role(request.voice, Voice(), is_partner=False, recording=request.recording)
    voice_id, voice = find_voice(request.voice, field=request.voice_field, there=there, settings=settings)
    return Role(voice_id, voice, is_partner=False)


def _clamp(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _unused(request: SpeechRequest, manifest: Manifest, delivery: Delivery, own: Role, settings: Settings) -> set[str]:
    """What the model has no knob for: parameters, instructions of which nothing counts, emotions, the recording.

    A parameter that asks for what the model's own settings are anyway has what it wants.
    """
    setup = msgspec.to_builtins(registry.setup_of(manifest.name, settings.models))
    unused = request.parameters.keys() - {"max_tokens", *manifest.options.__struct_encode_fields__}
    if manifest.word_times:
        unused -= {"timestamp_granularities"}
    unused -= {name for name in unused & setup.keys() if request.parameters[name] == setup[name]}
    neutral = Delivery()
    changed = {name for name in Delivery.__struct_fields__ if getattr(delivery, name) != getattr(neutral, name)}
    if request.instructions and not changed & (manifest.directable | {"speed"}):
        unused |= {"instructions"}
    if request.delivery is not None:
        unused |= changed & {"emotion", "emotion_reference"} - manifest.directable
    if (own.recording or own.voice.audio_prompt) and not imitates(manifest):
        unused |= {"audio_prompt"}
    return unused


def _idle(request: SpeechRequest, manifest: Manifest, cast: Mapping[str, Speak]) -> set[str]:
    """Parameters that ask the model for something which does nothing here, by its `acts_with`."""
    if not request.parameters.keys() & manifest.acts_with.keys():
        return set()
    defaults = {field.name: field.default for field in msgspec.structs.fields(manifest.options)}
    there: set[str] = set()
    for task in cast.values():
        facts = defaults | task.options
        facts["emotion"], facts["emotion_reference"] = any(task.delivery.emotion), task.delivery.emotion_reference
        facts["audio_prompt"] = task.references
        there |= {name for name, fact in facts.items() if fact and fact is not msgspec.NODEFAULT}
    asked = {name for name, value in request.parameters.items() if name in defaults and value != defaults[name]}
    return {name for name in asked & manifest.acts_with.keys() if not manifest.acts_with[name] & there}


def _items(
    script: Script, cast: Mapping[str, Speak], manifest: Manifest, seed: int, tempo: tuple[float, float]
) -> Iterator[Speak | Pause]:
    """The tasks and pauses; `tempo` is what the model does of the speed, and the rest."""
    number = 0
    for item in script:
        if isinstance(item, Pause):
            yield Pause(item.seconds * tempo[1] if item.is_exact else item.seconds / tempo[0])
            continue
        task = cast[item.speaker]
        yield msgspec.structs.replace(
            task,
            text=item.text,
            speaker=item.speaker,
            seed=derive_seed(seed, number),
            # Without a recording to go by, each segment would have a voice of its own.
            is_chained=manifest.dialogue is not None and number > 0 and not task.references,
        )
        number += 1
