"""Write what follows from `dia_server.settings.Settings` and the models' own: docs/configuration.md and config.yaml.

With --check, write nothing and fail if one of them is out of date.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from dia_server.config_file import ENVIRONMENT_PREFIX
from dia_server.models import registry
from dia_server.models.program import ProgramSetup
from dia_server.settings import RESTART, SECRETS, Lane, Settings, Tasks

ROOT = Path(__file__).parent.parent
WIDTH = 120
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "exclusiveMaximum": "under"}

PAGE = """\
# Configuration

A setting is a line in `config.yaml` in the server's home or an environment variable, read as YAML; a few are options
of the command line too. The later of these three wins. An unknown name or a value out of range stops the start with
a message that names it.

`GET /config` shows the settings of a running server, `PUT /config` changes them, in `config.yaml` too: what counts *at
once* counts for the next request. The rest is changed in the file, or by the variable that sets it, and counts from the
next start on.

This page and `config.yaml` are written by `scripts/settings_reference.py` from `dia_server/settings.py` and the
models' own settings.

| Setting | Allowed | Default | Meaning | Counts | Environment |
| --- | --- | --- | --- | --- | --- |
{settings}

## A lane

`lanes` gives each lane a name and these.

| Setting | Allowed | Default | Meaning |
| --- | --- | --- | --- |
{lane}

## Tasks

`index_tts` has these.

| Setting | Allowed | Default | Meaning |
| --- | --- | --- | --- |
{tasks}

## A program

Under `models`, by a name that no installed model has; [programs.md](programs.md) says what it makes of it.

| Setting | Allowed | Default | Meaning |
| --- | --- | --- | --- |
{program}
{models}"""

MODEL = """
## The model {name}

Under `{name}` in `models`.

| Setting | Allowed | Default | Meaning |
| --- | --- | --- | --- |
{setup}
"""


class Entry(msgspec.Struct, frozen=True):
    """One setting as the reference shows it."""

    name: str
    meaning: str
    allowed: str
    default: Any


def entries(defaults: msgspec.Struct) -> Iterator[Entry]:
    """The settings in a struct, in the order they are written in."""
    (schema,), components = msgspec.json.schema_components([type(defaults)])
    for name, field in components[component(schema)]["properties"].items():
        yield Entry(name, field["description"], allowed(field), msgspec.to_builtins(getattr(defaults, name)))


def program_entries() -> Iterator[Entry]:
    """Those of a program, some of which have no default."""
    required = {field.name for field in msgspec.structs.fields(ProgramSetup) if field.required}
    for entry in entries(ProgramSetup(command=("program",), sample_rate=24_000)):
        yield msgspec.structs.replace(entry, default="required") if entry.name in required else entry


def component(schema: dict[str, str]) -> str:
    """The name that a reference in a JSON schema holds."""
    return schema["$ref"].rpartition("/")[2]


def allowed(field: dict[str, Any]) -> str:
    """What a JSON schema allows, in a few words."""
    if "anyOf" in field:
        return " or ".join(allowed(option) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field:
        return component(field).lower()
    if field["type"] == "array":
        return f"list of {allowed(field['items'])}s"
    if field["type"] == "object":
        values = field.get("additionalProperties")
        return f"names, each with a {allowed(values)}" if values else "mapping"
    bounds = [f"{word} {field[key]}" for key, word in BOUNDS.items() if key in field]
    return ", ".join([field["type"], *bounds])


def on_one_line(value: Any) -> str:
    """A value in YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=sys.maxsize)
    return text.removesuffix("\n...\n").strip()


def config_yaml() -> str:
    """Every setting, commented out."""
    lines = [
        "# The settings of dia-server. Every line shows its default: take the # away from what you change.",
        f"# Environment variables ({ENVIRONMENT_PREFIX}PORT, say) win over this file; docs/configuration.md has all.",
    ]
    for entry in entries(Settings()):
        lines += ["", *(f"# {line}" for line in textwrap.wrap(entry.meaning, WIDTH - 2))]
        block = yaml.safe_dump({entry.name: entry.default}, sort_keys=False, width=WIDTH - 1)
        lines += [f"#{line}" for line in block.splitlines()]
    return "\n".join(lines) + "\n"


def configuration_md() -> str:
    """The reference as a page."""
    return PAGE.format(
        settings="\n".join(
            f"{row(entry)} {counts(entry.name)} | `{ENVIRONMENT_PREFIX}{entry.name.upper()}` |"
            for entry in entries(Settings())
        ),
        lane="\n".join(row(entry) for entry in entries(Lane())),
        tasks="\n".join(row(entry) for entry in entries(Tasks())),
        program="\n".join(row(entry) for entry in program_entries()),
        models="".join(
            MODEL.format(name=name, setup="\n".join(row(entry) for entry in entries(manifest.setup())))
            for name, manifest in registry.manifests().items()
            if manifest.setup.__struct_fields__
        ),
    )


def row(entry: Entry) -> str:
    """One line of a table, its last cell left open."""
    meaning = entry.meaning.replace("|", "\\|")
    return f"| `{entry.name}` | {entry.allowed} | `{on_one_line(entry.default)}` | {meaning} |"


def counts(name: str) -> str:
    """From when on a change counts."""
    if name in SECRETS:
        return "from the next start on: it is a secret"
    return f"from the next start on: {RESTART[name]}" if name in RESTART else "at once"


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    check = parser.parse_args().check
    texts = {ROOT / "docs/configuration.md": configuration_md(), ROOT / "config.yaml": config_yaml()}
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        names = " and ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"Not what the settings say: {names}. Run: make format")
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
