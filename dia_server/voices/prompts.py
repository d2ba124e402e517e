"""The audio prompts of a home: recordings of voices to imitate, each a wav file with its transcript beside it.

`<id>.wav` is the sound and `<id>.txt` what is said in it; both may be put there by hand. `<id>.json` is the server's
own note of where they came from. Changes from outside count at once.
"""

from __future__ import annotations

import hashlib
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from dia_server.audio.samples import Samples
from dia_server.audio.wav import WavInfo, read_info, write_wav
from dia_server.errors import BadInput, PromptNotFound
from dia_server.files import replacing
from dia_server.settings import Settings
from dia_server.voices.folder import ID_PATTERN, ID_RULE, File, Watched

# Of the sound that is stored, in Hz.
SAMPLE_RATE = 44_100
FOLDER = "audio_prompts"
# They would be hidden behind routes of these names.
RESERVED_IDS = frozenset({"metadata", "upload", "discover"})

# The longest transcript, and any note, are shorter.
_MAX_TEXT_BYTES = 65_536
_SOUND, _TRANSCRIPT, _NOTE = ".wav", ".txt", ".json"

Source = Literal["whisper", "manual", "file"]

log = structlog.get_logger(__name__)


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a prompt came from, as its note has it.

    Attributes:
        hash: sha256 of the file that was uploaded, or found in the folder.
        sound_hash: sha256 of the wav file that it became, so that a later change by hand shows.
        discovered_at: when that was, in ISO 8601.
        original_sample_rate: of that file, in Hz.
        transcript_source: who wrote the transcript, and
        transcript_hash: its sha256, so that a later change by hand shows; both None without one.
        consent: what the client said of the speaker's consent.
    """

    hash: str
    sound_hash: str | None = None
    discovered_at: str
    original_sample_rate: int
    transcript_source: Source | None = None
    transcript_hash: str | None = None
    consent: str | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A recording, and what is known of it.

    Attributes:
        path: of the wav file.
        file: its state, another one after each change.
        transcript: what is said in it; None if nobody has written it down.
        transcript_source: `file` for one that was put there or changed by hand, be it one that can't be read.
        origin: None for a recording that was put there by hand and not looked at yet.
    """

    path: Path
    file: File
    sound: WavInfo
    transcript: str | None
    transcript_source: Source | None
    origin: Origin | None


class Unreadable(msgspec.Struct, frozen=True):
    """A file that holds nothing of use, and why."""

    reason: str


# What a file has: a sound, a note or a transcript.
_Held = WavInfo | Origin | str | Unreadable


class PromptStore:
    """The prompts in a folder. `list` may be called from any thread, and so may what writes, but by one at a time."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """A file that was put there by hand and is longer than `max_prompt_seconds` is none."""
        self._settings = settings
        self._files: Watched[_Held] = Watched(folder, (_SOUND, _TRANSCRIPT, _NOTE), self._read_file)
        self._problems: dict[str, str] = {}
        self._reading = threading.Lock()

    def list(self) -> dict[str, Prompt]:
        """All prompts by id, in alphabetical order; files that are none are named in the log once."""
        with self._reading:
            try:
                found = self._files.read()
            except OSError as error:
                self._note_problems({self._files.folder.name: f"The folder can't be read: {error.strerror}"})
                return {}
            prompts, problems = self._prompts(found)
            self._note_problems(problems)
            return prompts

    def get(self, prompt_id: str, *, param: str | None = None) -> Prompt:
        """One prompt; `param` is what the client calls it, for the error.

        Raises:
            PromptNotFound: the message lists the ids that there are.
        """
        prompts = self.list()
        if prompt_id not in prompts:
            raise PromptNotFound(
                f"Audio prompt '{prompt_id[:100]}' not found. Audio prompts: {[*prompts]}", param=param
            )
        return prompts[prompt_id]

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with the files that hold nothing of use, by their names."""
        self.list()
        return self._problems

    def check_id(self, prompt_id: str) -> None:
        """Whether a prompt may be called so.

        Raises:
            BadInput: it may not.
        """
        if problem := _id_problem(prompt_id):
            raise BadInput(f"'prompt_id': {problem}", param="prompt_id")

    def put(self, prompt_id: str, samples: Samples, origin: Origin) -> None:
        """Store a recording, mono at `SAMPLE_RATE`, instead of the one that is there.

        The old transcript and note go first: at no moment do they stand beside a sound that they don't tell of.

        Raises:
            OSError: the folder can't be written to.
        """
        self._files.folder.mkdir(exist_ok=True)
        for suffix in (_TRANSCRIPT, _NOTE):
            self._path(prompt_id, suffix).unlink(missing_ok=True)
        path = self._path(prompt_id, _SOUND)
        with replacing(path) as file:
            write_wav(file, samples, SAMPLE_RATE)
        self._note(prompt_id, msgspec.structs.replace(origin, sound_hash=_hash_of(path)))

    def take_note(self, prompt_id: str, prompt: Prompt, origin: Origin) -> None:
        """Note a recording that was put there by hand: a new one, or another than its note tells of.

        A transcript by Whisper goes, since it told of the old sound. One that somebody wrote stays: whoever replaces a
        recording often says the same again, and what people write is theirs to change.

        Raises:
            OSError: the folder can't be written to.
        """
        old = prompt.origin
        if prompt.transcript_source == "whisper":
            self._path(prompt_id, _TRANSCRIPT).unlink(missing_ok=True)
        elif old is not None:
            kept = {"transcript_source": old.transcript_source, "transcript_hash": old.transcript_hash}
            origin = msgspec.structs.replace(origin, **kept)
        self._note(prompt_id, origin)

    def set_transcript(self, prompt_id: str, transcript: str, source: Source, origin: Origin) -> None:
        """Write down what is said in a recording, and who says so; `origin` is the recording's.

        Raises:
            OSError: the folder can't be written to.
        """
        # The note goes first: a transcript of ours without its note would pass for one written by hand.
        changes = {"transcript_source": source, "transcript_hash": _hash(transcript)}
        self._note(prompt_id, msgspec.structs.replace(origin, **changes))
        with replacing(self._path(prompt_id, _TRANSCRIPT)) as file:
            file.write(f"{transcript}\n".encode())

    def origin_of(self, prompt: Prompt) -> Origin:
        """The note of a recording, made now if it was put there by hand; that reads it whole.

        Raises:
            OSError: it can't be read.
        """
        return prompt.origin or self.new_origin(prompt)

    def new_origin(self, prompt: Prompt) -> Origin:
        """A note for a recording that was put there by hand; reads it whole.

        Raises:
            OSError: it can't be read.
        """
        digest = _hash_of(prompt.path)
        return Origin(
            hash=digest, sound_hash=digest, discovered_at=now(), original_sample_rate=prompt.sound.sample_rate
        )

    def delete(self, prompt_id: str) -> None:
        """Remove a recording and what stands beside it; the recording last, so that what can't be removed shows.

        Raises:
            OSError: the folder can't be written to.
        """
        for suffix in (_TRANSCRIPT, _NOTE, _SOUND):
            self._path(prompt_id, suffix).unlink(missing_ok=True)

    def _path(self, prompt_id: str, suffix: str) -> Path:
        return self._files.folder / f"{prompt_id}{suffix}"

    def _note(self, prompt_id: str, origin: Origin) -> None:
        with replacing(self._path(prompt_id, _NOTE)) as file:
            file.write(msgspec.json.format(msgspec.json.encode(origin), indent=2) + b"\n")

    def _prompts(self, found: dict[File, _Held]) -> tuple[dict[str, Prompt], dict[str, str]]:
        """The recordings by id, and by their names what is wrong with other files."""
        held = {file.name: value for file, value in found.items()}
        # A note that can't be read is written anew.
        problems = {
            name: value.reason
            for name, value in held.items()
            if isinstance(value, Unreadable) and not name.endswith(_NOTE)
        }
        prompts = {}
        for file, sound in found.items():
            prompt_id = file.name.removesuffix(_SOUND)
            if isinstance(sound, WavInfo) and (problem := self._problem_with(prompt_id, sound)):
                problems[file.name] = problem
            elif isinstance(sound, WavInfo):
                prompts[prompt_id] = self._prompt(prompt_id, file, sound, held)
        return prompts, problems

    def _prompt(self, prompt_id: str, file: File, sound: WavInfo, held: dict[str, _Held]) -> Prompt:
        note, text = held.get(f"{prompt_id}{_NOTE}"), held.get(f"{prompt_id}{_TRANSCRIPT}", "")
        origin = note if isinstance(note, Origin) else None
        transcript = text if isinstance(text, str) and text else None
        source: Source | None = "file" if text else None
        if origin is not None and transcript is not None and origin.transcript_hash == _hash(transcript):
            source = origin.transcript_source
        return Prompt(
            path=self._path(prompt_id, _SOUND),
            file=file,
            sound=sound,
            transcript=transcript,
            transcript_source=source,
            origin=origin,
        )

    def _read_file(self, folder: Path, file: File) -> _Held:
        path = folder / file.name
        try:
            return read_info(path) if path.suffix == _SOUND else _read_text(path, file.size)
        except FileNotFoundError:
            return ""  # just deleted
        except OSError as error:
            return Unreadable(f"It can't be read: {error.strerror}")
        except UnicodeDecodeError as error:
            return Unreadable(f"It is not UTF-8 text: byte {error.start + 1} is wrong")
        except (ValueError, msgspec.DecodeError) as error:
            return Unreadable(str(error))

    def _problem_with(self, prompt_id: str, sound: WavInfo) -> str | None:
        most = self._settings.max_prompt_seconds
        if sound.seconds > most:
            return f"It has {sound.seconds:.1f} s; allowed are {most:g} s (max_prompt_seconds)"
        return _id_problem(prompt_id)

    def _note_problems(self, problems: dict[str, str]) -> None:
        for name, reason in problems.items():
            if self._problems.get(name) != reason:
                log.warning("audio prompt can't be read", file=name, reason=reason)
        self._problems = problems


def _read_text(path: Path, size: int) -> Origin | str:
    if size > _MAX_TEXT_BYTES:
        raise ValueError(f"It has {size} bytes; allowed are {_MAX_TEXT_BYTES}")
    if path.suffix == _TRANSCRIPT:
        return path.read_text(encoding="utf-8").strip()
    return msgspec.json.decode(path.read_bytes(), type=Origin)


def now() -> str:
    """The time, as notes have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(transcript: str) -> str:
    return hashlib.sha256(transcript.encode()).hexdigest()


def _id_problem(prompt_id: str) -> str | None:
    if not re.match(ID_PATTERN, prompt_id):
        return f"an audio prompt's id {ID_RULE}"
    if prompt_id in RESERVED_IDS:
        return f"'{prompt_id}' is the name of a route; choose another id"
    return None
