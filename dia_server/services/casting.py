"""Who says each line, and how: from a voice and its speaker tags to tasks that lack only their text."""

from __future__ import annotations

from collections.abc import Container, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from dia_server.errors import BadInput
from dia_server.models.protocol import Manifest
from dia_server.script.instructions import of_style
from dia_server.services.references import References
from dia_server.tasks import Delivery, Reference, Speak
from dia_server.voices.text import Voice


class Role(msgspec.Struct, frozen=True):
    """The voice that a speaker tag stands for; a partner is the voice's other speaker, whom no voice is tied to."""

    voice_id: str
    voice: Voice
    is_partner: bool


def cast_roles(
    speakers: AbstractSet[str], voice_id: str, there: Mapping[str, Voice], aliases: Mapping[str, str]
) -> dict[str, Role]:
    """Who stands for each speaker of a voice, of those that are there; they may be tied by their aliases.

    Raises:
        BadInput: the voice ties a speaker to a voice that is not there.
    """
    voice, roles = there[voice_id], {}
    for speaker in sorted(speakers):
        tied = voice.speakers.get(speaker)
        if tied is None:
            roles[speaker] = Role(voice_id, voice, is_partner=speaker != voice.primary_speaker)
        elif (tied_id := tied if tied in there else aliases.get(tied, tied)) in there:
            roles[speaker] = Role(tied_id, there[tied_id], is_partner=False)
        else:
            raise BadInput(f"Voice '{voice_id}' ties {speaker} to voice '{tied}', which is not there", param="voice")
    return roles


def imitates(manifest: Manifest) -> bool:
    """Whether a model can sound like a recording."""
    return "audio_prompt" in manifest.directable


def prompts_of(voice_id: str, there: Mapping[str, Voice], aliases: Mapping[str, str]) -> set[str]:
    """The ids of the prompts that a voice and those that it ties to speakers imitate."""
    names = (voice_id, *there[voice_id].speakers.values())
    voices = [there[found] for name in names if (found := name if name in there else aliases.get(name, name)) in there]
    return {voice.audio_prompt for voice in voices if voice.audio_prompt}


def missing(voice: Voice, there: Mapping[str, Voice], prompts: Container[str], aliases: Mapping[str, str]) -> str:
    """What a voice names that is not there, in words; empty where nothing is missing."""
    names = [
        f"{speaker} is tied to voice '{tied}'"
        for speaker, tied in voice.speakers.items()
        if tied not in there and aliases.get(tied) not in there
    ]
    if voice.audio_prompt is not None and voice.audio_prompt not in prompts:
        names.append(f"it imitates audio prompt '{voice.audio_prompt}'")
    return f"{' and '.join(names)}, which is not there" if names else ""


def task_of(
    role: Role,
    speaker: str,
    manifest: Manifest,
    wanted: Delivery,
    speed: float,
    parameters: dict[str, Any],
    references: References,
) -> Speak:
    """The role's task without its text and seed.

    Raises:
        BadInput: the model doesn't take the voice's options, or the request's; the voice's recording is missing.
    """
    return Speak(
        model=manifest.name,
        text="",
        speaker=speaker,
        is_partner=role.is_partner,
        seed=0,
        delivery=_delivery(role.voice, wanted, speed),
        options=_options(manifest, role, parameters),
        references=_references(role, speaker, references) if imitates(manifest) else {},
    )


def _references(role: Role, speaker: str, references: References) -> dict[str, Reference]:
    reference = references.of(role.voice_id, role.voice)
    return {} if reference is None else {speaker: reference}


def _delivery(voice: Voice, wanted: Delivery, speed: float) -> Delivery:
    """The voice's own manner, unless another is wanted."""
    manner = of_style(voice.style)
    return Delivery(
        speed=speed,
        pitch=wanted.pitch,
        volume=wanted.volume,
        emotion=wanted.emotion or manner.emotion,
        style=wanted.style if wanted.style != "neutral" else manner.style,
    )


def _options(manifest: Manifest, role: Role, parameters: dict[str, Any]) -> dict[str, Any]:
    """The model's own options: the voice's, overlaid with those of the request that the model has a knob for."""
    knobs = set(manifest.options.__struct_encode_fields__)
    merged = role.voice.models.get(manifest.name, {}) | {name: parameters[name] for name in parameters.keys() & knobs}
    try:
        msgspec.convert(merged, manifest.options)
    except msgspec.ValidationError as error:
        raise BadInput(
            f"Options for model '{manifest.name}', from voice '{role.voice_id}' and the request: {error}"
        ) from None
    return merged
