"""YAML whose mappings have each key once: of two, one would be ignored in silence."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that comes twice, by a ConstructorError that says where.

    It is Python's parser, since deeply nested brackets make libyaml's crash the process.
    """

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, once its keys were looked at; what is merged into it (`<<`) may have them too."""
        if isinstance(node, yaml.MappingNode):
            _check_keys([key for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        # Of what only calls itself a mapping it says so.
        return super().construct_mapping(node, deep)  # type: ignore[arg-type]


def load_strictly(text: str) -> Any:
    """What the text says.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is not YAML, or a key comes twice.
    """
    return yaml.load(text, StrictLoader)  # noqa: S506 - a SafeLoader


def _check_keys(keys: list[yaml.ScalarNode]) -> None:
    seen: set[tuple[str, str]] = set()
    for key in keys:
        if (key.tag, key.value) in seen:
            said = f"'{key.value[:100]}' stands here twice"
            raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
        seen.add((key.tag, key.value))
