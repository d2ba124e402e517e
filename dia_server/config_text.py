"""Changes to the text of config.yaml that leave every other character of it as it is."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

import yaml

_WIDTH = 119
_ODD_BREAKS = re.compile(r"[\x85\u2028\u2029]|\\x85|\\u202[89]")


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """The text with other values of some settings; `values` are as YAML has them.

    A setting that the text lacks comes below the comment that shows its default, or at the end.

    Raises:
        ValueError: the text is not of the kind that can be changed so; the message says what it has.
    """
    _check(text)
    try:
        for name, value in values.items():
            text = _with_value(text, name, value)
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


def _with_value(text: str, name: str, value: Any) -> str:
    there = _find(text, name)
    if there is None:
        return _with_new(text, _dump(text, {name: value}), name)
    key, node = there
    if _is_block(node, value):
        start, items, end = _with_items(text, key, node, value, yaml.safe_load(text)[name])
        return text[:start] + items + text[end:]
    return text[: key.start_mark.index] + _dump(text, {name: value}) + text[_end_of(node, text) :]


def _find(text: str, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value of a setting."""
    document = yaml.compose(text, yaml.SafeLoader)
    entries = document.value if isinstance(document, yaml.MappingNode) else []
    return next((entry for entry in entries if entry[0].value == name), None)


def _with_new(text: str, entry: str, name: str) -> str:
    # The default as config.yaml has it when it comes with the server, all its lines.
    default = re.search(rf"^# ?{name}:.*(?:\n#(?: ?-|  ).*)*", text, re.MULTILINE)
    at = default.end() if default else len(text)
    before, after, end_of_line = text[:at].removesuffix("\r"), text[at:], _end_of_line(text)
    if before and not before.endswith("\n"):
        before += end_of_line
    return before + entry + (after if default and after else end_of_line)


def _is_block(node: yaml.Node, value: Any) -> TypeGuard[yaml.MappingNode]:
    """Whether the value can go into the node item by item."""
    return bool(value) and isinstance(value, dict) and isinstance(node, yaml.MappingNode) and not node.flow_style


def _with_items(
    text: str, key: yaml.Node, node: yaml.MappingNode, value: Mapping[str, Any], old: Mapping[str, Any]
) -> tuple[int, str, int]:
    """A block with other items, and where it begins and ends; those that stay keep their comments, above and beside."""
    start = at = _line_end(text, key.end_mark.index)
    lines = {}
    for item, inner in node.value:
        name, begin, end = item.value, inner.start_mark.index, _end_of(inner, text)
        after = _line_end(text, end)
        if name in value:
            entry = text[begin:end]
            if value[name] != old[name] and _is_block(inner, value[name]):
                begin, entry, end = _with_items(text, item, inner, value[name], old[name])
            elif value[name] != old[name]:
                entry = _dump(text, value[name], node)
            lines[name] = text[at:begin] + entry + text[end:after]
        at = after
    margin = _end_of_line(text) + " " * node.start_mark.column
    found = [lines.get(name) or margin + _dump(text, {name: each}, node) for name, each in value.items()]
    return start, "".join(found), at


def _dump(text: str, value: Any, siblings: yaml.Node | None = None) -> str:
    """A value, or an entry, as it stands in the text; among its siblings, on one line."""
    width, column = (sys.maxsize, siblings.start_mark.column) if siblings else (_WIDTH, 0)
    # PyYAML escapes all that is not ASCII, or nothing; what YAML takes for ends of lines must be.
    is_readable = not _ODD_BREAKS.search(str(value))
    dumped = yaml.safe_dump(value, sort_keys=False, allow_unicode=is_readable, width=width)
    return dumped.removesuffix("...\n").rstrip("\n").replace("\n", _end_of_line(text) + " " * column)


def _end_of(node: yaml.Node, text: str) -> int:
    """Where a value ends; a block's own end is behind the comments and lines that follow it."""
    while isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return len(text[: node.end_mark.index].rstrip())


def _line_end(text: str, at: int) -> int:
    found = re.compile(r"\r?\n").search(text, at)
    return found.start() if found else len(text)


def _end_of_line(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
