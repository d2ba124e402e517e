"""YAML whose mappings have each key once: of two, one would be ignored in silence."""

from __future__ import annotations

from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"


class StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that comes twice; what is merged into a mapping (`<<`) may have its keys too.

    It is Python's parser, since deeply nested brackets make libyaml's crash the process.
    """

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """The mapping.

        Raises:
            ComposerError: a key comes twice; it says where.
        """
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE):
            if (key.tag, key.value) in seen:
                said = f"'{key.value[:100]}' stands here twice"
                raise yaml.composer.ComposerError(None, None, said, key.start_mark)
            seen.add((key.tag, key.value))
        return node


def load_strictly(text: str) -> Any:
    """What the text says.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is not YAML, or a key comes twice.
    """
    return yaml.load(text, StrictLoader)  # noqa: S506 - a SafeLoader
