"""Changes to the text of config.yaml that leave every other character of it as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_WIDTH = 119


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """The text with other values of some settings; `values` are as YAML has them.

    A setting that the text lacks comes below the comment that shows its default, or at the end.

    Raises:
        ValueError: the text is not of the kind that can be changed so; the message says what it has.
    """
    _check(text)
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    try:
        for name, value in values.items():
            entry = yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, width=_WIDTH).rstrip("\n")
            text = _with_entry(text, name, entry.replace("\n", end_of_line), end_of_line)
    except yaml.YAMLError:
        raise ValueError("its form is unusual") from None
    return text


def _check(text: str) -> None:
    events = list(yaml.parse(text))
    if any(isinstance(event, yaml.AliasEvent) for event in events):
        raise ValueError("it has aliases (`*name`)")
    if any(isinstance(event, yaml.DocumentEndEvent) and event.explicit for event in events):
        raise ValueError("it has an end of a document (`...`) in it")
    root = next((event for event in events if isinstance(event, yaml.MappingStartEvent)), None)
    if root is not None and root.flow_style:
        raise ValueError("it is written in braces, not as `name: value` lines")


def _with_entry(text: str, name: str, entry: str, end_of_line: str) -> str:
    there = _entry_in(text, name)
    if there is not None:
        return text[: there.start] + entry + text[there.stop :]
    # The default as config.yaml has it when it comes with the server, all its lines.
    default = re.search(rf"^# ?{name}:.*(?:\n#(?: ?-|  ).*)*", text, re.MULTILINE)
    at = default.end() if default else len(text)
    before = text[:at].removesuffix("\r")
    if before and not before.endswith("\n"):
        before += end_of_line
    return before + entry + (text[at:] if text[at:].strip("\r") else end_of_line)


def _entry_in(text: str, name: str) -> slice | None:
    """Where a setting and its value stand; of two, the last one counts."""
    document = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(document, yaml.MappingNode):
        return None
    found = [(key, value) for key, value in document.value if key.value == name]
    if not found:
        return None
    key, value = found[-1]
    start = key.start_mark.index
    # A text of several lines ends where the next line begins.
    return slice(start, start + len(text[start : _end_of(value)].rstrip()))


def _end_of(node: yaml.Node) -> int:
    """Where a value ends; a block's own end is behind the comments that follow it."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return node.end_mark.index
    last = node.value[-1]
    return _end_of(last[1] if isinstance(last, tuple) else last)
