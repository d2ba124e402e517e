"""Who says each line, and how: from a voice and its speaker tags to tasks that lack only their text."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec

from dia_server.errors import BadInput
from dia_server.models.protocol import Manifest
from dia_server.script.instructions import of_style
from dia_server.services.references import (
    References,
    check_recording,
    most_transcript_bytes,
    seconds_of,
    transcript_bytes,
)
from dia_server.tasks import Delivery, Reference, Speak
from dia_server.voices.text import Voice


class Role(msgspec.Struct, frozen=True):
    """The voice that a speaker tag stands for; a partner is the voice's other speaker, whom no voice is tied to.

    A `recording` is imitated instead of the voice's own.
    """

    voice_id: str
    voice: Voice
    is_partner: bool
    recording: Reference | None = None


def cast_roles(
    speakers: AbstractSet[str], own: Role, there: Mapping[str, Voice], aliases: Mapping[str, str], field: str
) -> dict[str, Role]:
    """Who stands for each speaker of a voice, of those that are there; they may be tied by their aliases.

    `field` names the voice, for errors.

    Raises:
        BadInput: the voice ties a speaker to a voice that is not there.
    """
    voice, roles = own.voice, {}
    for speaker in sorted(speakers):
        tied = voice.speakers.get(speaker)
        if tied is None:
            roles[speaker] = msgspec.structs.replace(own, is_partner=speaker != voice.primary_speaker)
        elif (tied_id := tied if tied in there else aliases.get(tied, tied)) in there:
            roles[speaker] = Role(tied_id, there[tied_id], is_partner=False)
        else:
            raise BadInput(f"Voice '{own.voice_id}' ties {speaker} to voice '{tied}', which is not there", param=field)
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


class Casting:
    """Turns roles into tasks that lack only their text and seed."""

    def __init__(
        self,
        manifest: Manifest,
        wanted: Delivery,
        parameters: dict[str, Any],
        references: References,
        *,
        field: str,
    ) -> None:
        """`wanted` is how the request wants it said, at the model's speed; `field` names the voice, for errors."""
        self._manifest = manifest
        self._wanted = wanted
        self._parameters = parameters
        self._references = references
        self._field = field

    def tasks(self, own: Role, roles: Mapping[str, Role]) -> dict[str, Speak]:
        """By speaker; of a dialogue all have one task, with the recordings of all, and else as `own` speaks.

        Raises:
            BadInput: the model doesn't take a voice's options, or the request's, or a voice's recording.
        """
        if self._manifest.dialogue is None:
            return {
                speaker: self._task(role, speaker, self._imitated(role, speaker)) for speaker, role in roles.items()
            }
        together: dict[str, Reference] = {}
        for speaker, role in roles.items():
            # A partner has a voice of its own, which the model makes up.
            together |= {} if role.is_partner else self._imitated(role, speaker)
        self._check_together([(roles[speaker].voice.audio_prompt, each) for speaker, each in together.items()])
        return dict.fromkeys(roles, self._task(own, own.voice.primary_speaker, together))

    def compromises(self, own: Role, roles: Mapping[str, Role], tasks: Mapping[str, Speak]) -> list[str]:
        """What a dialogue's one task can't do for single speakers, in words."""
        found: list[str] = []
        if self._manifest.dialogue is None:
            return found
        for speaker, role in roles.items():
            is_tied, theirs = role.voice_id != own.voice_id, tasks[speaker].references
            if imitates(self._manifest) and speaker not in theirs and (is_tied or theirs):
                drift = ", and may change its voice within the clip" if theirs else ""
                found.append(f"{speaker} has no recording to sound like{drift}")
            if is_tied and self._own_options(role) != self._own_options(own):
                found.append(f"{speaker} is spoken with the options of voice '{own.voice_id}'")
        return found

    def _task(self, role: Role, speaker: str, references: dict[str, Reference]) -> Speak:
        return Speak(
            model=self._manifest.name,
            text="",
            speaker=speaker,
            is_partner=role.is_partner,
            seed=0,
            delivery=_delivery(role.voice, self._wanted),
            options=self._options(role),
            references=references,
        )

    def _imitated(self, role: Role, speaker: str) -> dict[str, Reference]:
        if not imitates(self._manifest):
            return {}
        if role.recording is not None:
            check_recording(role.recording, self._manifest, self._field)
        reference = role.recording or self._references.of(role.voice_id, role.voice, self._manifest, self._field)
        return {} if reference is None else {speaker: reference}

    def _own_options(self, role: Role) -> dict[str, Any]:
        return role.voice.models.get(self._manifest.name, {})

    def _options(self, role: Role) -> dict[str, Any]:
        """The model's own options: the voice's, overlaid with those of the request that the model has a knob for."""
        knobs, parameters = set(self._manifest.options.__struct_encode_fields__), self._parameters
        merged = self._own_options(role) | {name: parameters[name] for name in parameters.keys() & knobs}
        try:
            msgspec.convert(merged, self._manifest.options)
        except msgspec.ValidationError as error:
            raise BadInput(
                f"Options for model '{self._manifest.name}', from voice '{role.voice_id}' and the request: {error}"
            ) from None
        return merged

    def _check_together(self, theirs: Sequence[tuple[str | None, Reference]]) -> None:
        """Refuse recordings, each with its prompt's id, that are too much for one dialogue."""
        seconds = [seconds_of(each) for _, each in theirs]
        sizes = [transcript_bytes(each.transcript) for _, each in theirs]
        most_seconds = self._manifest.recordings.most_seconds_together
        most_bytes = most_transcript_bytes(self._manifest, len(theirs))
        prompts = " and ".join(
            f"'{prompt_id}' ({length:.1f} s, {size} bytes of transcript)"
            for (prompt_id, _), length, size in zip(theirs, seconds, sizes, strict=True)
        )
        if sum(seconds) > most_seconds:
            problem, advice = f"more than {most_seconds:g} s", "upload shorter recordings, with their transcripts"
        elif sum(sizes) > most_bytes:
            problem = f"transcripts of more than {most_bytes:g} bytes"
            advice = (
                "correct those that say more than their recording by PUT /audio_prompts/{id}/transcript, else upload "
                "shorter recordings, with their transcripts"
            )
        else:
            return
        raise BadInput(
            f"The speakers' audio prompts {prompts} have {problem} together, and that is the most that model "
            f"'{self._manifest.name}' takes in one dialogue; {advice}",
            param=self._field,
        )


def _delivery(voice: Voice, wanted: Delivery) -> Delivery:
    """The voice's own manner, unless another is wanted."""
    manner = of_style(voice.style)
    has_emotion = bool(wanted.emotion or wanted.emotion_reference)
    return msgspec.structs.replace(
        wanted,
        emotion=wanted.emotion if has_emotion else manner.emotion,
        style=wanted.style if wanted.style != "neutral" else manner.style,
    )
