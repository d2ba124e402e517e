"""The voices of a home: one YAML file each, read again whenever it changes."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from importlib import resources
from pathlib import Path
from time import time_ns
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import yaml

from dia_server.errors import VoiceNotFound
from dia_server.files import replacing

ID_PATTERN = r"^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"

# A voice is a page at most; a file of this size is something else that got the wrong name.
MAX_FILE_BYTES = 16_384

# Some file systems count time in steps of two seconds, so a younger file may change without a new time.
_SETTLED_NS = 2_000_000_000

_STARTERS = resources.files("dia_server.voices") / "starters"
_SUFFIX = ".yaml"
_SUFFIXES = (_SUFFIX, ".yml")


class Voice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who speaks, and how.

    Attributes:
        style: manner of speaking; names that a model doesn't know speak as neutral.
        primary_speaker: who says what stands before the first speaker tag.
        audio_prompt: id of the recording to imitate.
        audio_prompt_transcript: what is said in it.
        voice_seed: the seed of requests that bring none; None draws one each time.
        speakers: ids of the voices that take single speaker tags, by tag.
        models: options for single models, by the model's name; only that model reads them.
    """

    style: str = "neutral"
    primary_speaker: Literal["S1", "S2"] = "S1"
    audio_prompt: Annotated[str, msgspec.Meta(pattern=ID_PATTERN)] | None = None
    audio_prompt_transcript: str | None = None
    voice_seed: Annotated[int, msgspec.Meta(ge=1, le=999_999)] | None = None
    speakers: dict[Annotated[str, msgspec.Meta(pattern="^S[12]$")], str] = {}
    models: dict[str, dict[str, Any]] = {}


class _File(NamedTuple):
    """What tells one state of a file from another."""

    name: str
    modified_ns: int
    size: int


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which let a small file mean an endless value.

    It is Python's parser, since deeply nested brackets make libyaml's crash the process.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (`*name`) are not allowed", alias.start_mark)
        return super().compose_node(parent, index)


class VoiceStore:
    """The voices in a folder; files that can't be read harm no other voice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # What files hold that can't change any more without its showing in their `_File`.
        self._settled: dict[_File, Voice | str] = {}
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
        if voice_id not in voices:
            raise VoiceNotFound(f"Voice '{voice_id}' not found. Available voices: {list(voices)}", param=param)
        return voices[voice_id]

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with the files that hold no voice, by their names."""
        self._refresh()
        return self._problems

    def _refresh(self) -> None:
        try:
            files = sorted(_scan(self._folder), key=_voice_id)
        except OSError as error:
            self._voices, self._problems = {}, {self._folder.name: f"The folder can't be read: {error.strerror}"}
            return
        now, settled = time_ns(), self._settled
        found = {file: settled[file] if file in settled else _read(self._folder, file) for file in files}
        self._settled = {file: held for file, held in found.items() if now - file.modified_ns > _SETTLED_NS}
        self._voices = {_voice_id(file): held for file, held in found.items() if isinstance(held, Voice)}
        self._problems = {file.name: held for file, held in found.items() if isinstance(held, str)}


def _scan(folder: Path) -> list[_File]:
    """The files that are voices, or were meant to be; hidden ones are the doings of editors."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return []
    with entries:
        meant = [entry for entry in entries if entry.name.endswith(_SUFFIXES) and not entry.name.startswith(".")]
        return [file for entry in meant if (file := _regular_file(entry))]


def _regular_file(entry: os.DirEntry[str]) -> _File | None:
    try:
        status = entry.stat()
    except OSError:
        return None  # just deleted, or a link into nowhere
    return _File(entry.name, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _voice_id(file: _File) -> str:
    return file.name.removesuffix(_SUFFIX)


def _read(folder: Path, file: _File) -> Voice | str:
    """A file's voice, or what is wrong with the file."""
    path = folder / file.name
    if path.suffix != _SUFFIX:
        return f"The name of a voice's file ends in {_SUFFIX}; rename it to {path.stem}{_SUFFIX}"
    if not re.match(ID_PATTERN, _voice_id(file)):
        return (
            "A voice's id has 1 to 64 of the characters A-Z, a-z, 0-9, '.', '_' and '-', "
            "begins with a letter or digit, and has no '..'; rename the file"
        )
    if file.size > MAX_FILE_BYTES:
        return f"The file has {file.size} bytes; a voice has {MAX_FILE_BYTES} at most"
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"The file can't be read: {error.strerror}"
    except UnicodeDecodeError as error:
        return f"The file is not UTF-8 text: byte {error.start + 1} is wrong"


def _parse(text: str) -> Voice | str:
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return f"This is not valid YAML{place}: {error.problem}"
    except Exception as error:  # noqa: BLE001 - PyYAML lets many kinds through, and one file must not harm the others
        return f"This is not valid YAML: {error}"
    if not isinstance(content, dict | None):
        return "A voice is written as `name: value` lines"
    try:
        return msgspec.convert(content or {}, Voice)
    except msgspec.ValidationError as error:
        return f"{error}; the fields are {', '.join(Voice.__struct_fields__)}"


def voices_of(home: Path) -> Path:
    """The folder with a home's voices: its own, or the starters while it has none."""
    folder = home / "voices"
    return folder if folder.exists() else Path(str(_STARTERS))


def install_starters(folder: Path) -> None:
    """Make the folder with the voices that come with the server; one that is there already stays as it is.

    Raises:
        OSError: the folder's parent can't be written to.
    """
    if os.path.lexists(folder):
        return
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    part.mkdir()
    try:
        for starter in _STARTERS.iterdir():
            with replacing(part / starter.name) as file:
                file.write(starter.read_bytes())
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
