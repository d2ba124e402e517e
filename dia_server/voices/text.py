"""A voice as the text of its file, and back."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal

import msgspec
import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from dia_server.strict_yaml import StrictLoader
from dia_server.voices.folder import ID_PATTERN

_WIDTH = 120
# A new file shows these even where they are as by default, so that whoever opens it sees what there is to change.
_ALWAYS_SHOWN = ("style", "primary_speaker")


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


class _Loader(StrictLoader):
    """YAML without aliases, which let a small file mean an endless value."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (`*name`) are not allowed", alias.start_mark)
        return super().compose_node(parent, index)


def parse_voice(text: str) -> Voice | str:
    """The voice, or what is wrong with the text."""
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


def write_voice(voice: Voice, old: str = "") -> str:
    """The text of a voice's file; what the old text says besides, comments above all, stays."""
    text = _revised(voice, old) if old.strip() else None
    # The two libraries read a few words differently (`no`, `12:30`): what doesn't come back the same is not written.
    if text is not None and parse_voice(text) == voice:
        return text
    comments = [line for line in old.splitlines() if line.lstrip().startswith("#")]
    return "".join(f"{line}\n" for line in comments) + _plain(voice)


def _plain(voice: Voice) -> str:
    fields = {name: value for name, value in _fields(voice).items() if name in _ALWAYS_SHOWN or _is_set(name, value)}
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=_WIDTH)


def _revised(voice: Voice, old: str) -> str | None:
    editor = YAML()
    editor.width = _WIDTH
    editor.preserve_quotes = True
    try:
        document = editor.load(old)
        before = parse_voice(old)
        if not isinstance(document, CommentedMap) or not isinstance(before, Voice):
            return None
        for name, value in _fields(voice).items():
            if value != getattr(before, name):
                document[name] = value
        written = io.StringIO()
        editor.dump(document, written)
    except (YAMLError, ValueError):
        return None
    return written.getvalue()


def _fields(voice: Voice) -> dict[str, Any]:
    return {name: getattr(voice, name) for name in Voice.__struct_fields__}


def _is_set(name: str, value: Any) -> bool:
    return bool(value != getattr(Voice(), name))
