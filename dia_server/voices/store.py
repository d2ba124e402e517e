"""The voices of a home: one YAML file each, read again whenever it changes."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import structlog

from dia_server.errors import BadInput, Conflict, VoiceNotFound
from dia_server.files import replacing
from dia_server.voices.folder import ID_PATTERN, ID_RULE, File, Watched
from dia_server.voices.text import Voice, parse_voice, write_voice

# A voice is a page at most; a file of this size is something else that got the wrong name.
MAX_FILE_BYTES = 16_384

_STARTERS = resources.files("dia_server.voices") / "starters"
_EXAMPLES = resources.files("dia_server.voices") / "examples"
_SUFFIX = ".yaml"
_SUFFIXES = (_SUFFIX, ".yml")

log = structlog.get_logger(__name__)


class VoiceStore:
    """The voices in a folder; files that can't be read harm no other voice."""

    def __init__(self, folder: Path) -> None:
        self._files = Watched(folder, _SUFFIXES, _read)
        self._voices: dict[str, Voice] = {}
        self._problems: dict[str, str] = {}

    def list(self) -> dict[str, Voice]:
        """All voices by id, in alphabetical order."""
        self._refresh()
        return self._voices

    def get(self, voice_id: str, *, param: str | None = None) -> Voice:
        """One voice; `param` is what the client calls it, for the error.

        Raises:
            VoiceNotFound: the message lists the ids that there are.
        """
        voices = self.list()
        if problem := self._problems.get(f"{voice_id}{_SUFFIX}"):
            raise VoiceNotFound(f"voices/{voice_id}{_SUFFIX} holds no voice: {problem}", param=param)
        if voice_id not in voices:
            raise VoiceNotFound(f"Voice '{voice_id}' not found. Available voices: {list(voices)}", param=param)
        return voices[voice_id]

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with the files that hold no voice, by their names."""
        self._refresh()
        return self._problems

    def check_free(self, voice_id: str) -> None:
        """Whether a new voice may have an id.

        Raises:
            BadInput: it is no id.
            Conflict: it is taken, be it by a file that can't be read.
        """
        if not re.match(ID_PATTERN, voice_id):
            raise BadInput(f"'voice_id': a voice's id {ID_RULE}", param="voice_id")
        if voice_id in self.list():
            raise Conflict(
                f"Voice '{voice_id}' is there already; change it by PUT /voice_mappings/{voice_id}, or delete it",
                param="voice_id",
            )
        if os.path.lexists(self._path(voice_id)):
            problem = self.problems.get(f"{voice_id}{_SUFFIX}", "it can't be read")
            raise Conflict(
                f"voices/{voice_id}{_SUFFIX} is there already, but holds no voice: {problem}", param="voice_id"
            )

    def write(self, voice_id: str, voice: Voice) -> None:
        """Make or change a voice's file; may be called from any thread, by one at a time.

        Raises:
            BadInput: the voice is too long for a file.
            OSError: the folder can't be written to.
        """
        path = self._path(voice_id)
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        text = write_voice(voice, old).encode()
        if len(text) > MAX_FILE_BYTES:
            raise BadInput(f"The voice would have {len(text)} bytes; it may have {MAX_FILE_BYTES}")
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            file.write(text)

    def delete(self, voice_id: str) -> None:
        """Remove a voice's file; may be called from any thread.

        Raises:
            OSError: the folder can't be written to.
        """
        self._path(voice_id).unlink(missing_ok=True)

    def _path(self, voice_id: str) -> Path:
        return self._files.folder / f"{voice_id}{_SUFFIX}"

    def _refresh(self) -> None:
        try:
            found = self._files.read()
        except OSError as error:
            self._voices = {}
            self._note_problems({self._files.folder.name: f"The folder can't be read: {error.strerror}"})
            return
        self._voices = {_voice_id(file): held for file, held in found.items() if isinstance(held, Voice)}
        self._note_problems({file.name: held for file, held in found.items() if isinstance(held, str)})

    def _note_problems(self, problems: dict[str, str]) -> None:
        for name, reason in problems.items():
            if self._problems.get(name) != reason:
                log.warning("voice can't be read", file=name, reason=reason)
        self._problems = problems


def _voice_id(file: File) -> str:
    return file.name.removesuffix(_SUFFIX)


def _read(folder: Path, file: File) -> Voice | str:
    """A file's voice, or what is wrong with the file."""
    path = folder / file.name
    if path.suffix != _SUFFIX:
        return f"The name of a voice's file ends in {_SUFFIX}; rename it to {path.stem}{_SUFFIX}"
    if not re.match(ID_PATTERN, _voice_id(file)):
        return f"A voice's id {ID_RULE}; rename the file"
    if file.size > MAX_FILE_BYTES:
        return f"The file has {file.size} bytes; a voice has {MAX_FILE_BYTES} at most"
    try:
        return parse_voice(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"The file can't be read: {error.strerror}"
    except UnicodeDecodeError as error:
        return f"The file is not UTF-8 text: byte {error.start + 1} is wrong"


def voices_of(home: Path) -> Path:
    """The folder with a home's voices: its own, or the starters while it has none."""
    folder = home / "voices"
    return folder if folder.exists() else Path(str(_STARTERS))


def install_starters(folder: Path) -> None:
    """Make the folder with the voices that come with the server; one that is there already stays as it is.

    Raises:
        OSError: the folder's parent can't be written to.
    """
    _install(_STARTERS, folder)


def install_examples(folder: Path) -> None:
    """Make the folder with the recordings to imitate that come with the server; likewise.

    Raises:
        OSError: the folder's parent can't be written to.
    """
    _install(_EXAMPLES, folder)


def _install(source: Traversable, folder: Path) -> None:
    if os.path.lexists(folder):
        return
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    part.mkdir()
    try:
        for each in source.iterdir():
            with replacing(part / each.name) as file:
                file.write(each.read_bytes())
        part.rename(folder)
    except OSError:
        # Another process that starts on the same home may have been faster.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
