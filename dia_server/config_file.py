"""Where settings come from: config.yaml in the home, then `DIA_SERVER_…` variables, then the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from dia_server.errors import SettingsError
from dia_server.settings import HELPERS, Settings, patient_lane
from dia_server.strict_yaml import load_strictly

ENVIRONMENT_PREFIX = "DIA_SERVER_"


class Sources(NamedTuple):
    """What settings are made of, the later ones winning.

    Attributes:
        file: absent means defaults.
        environment: variables, those without our prefix too.
        overrides: values that the command line gives, by name.
    """

    file: Path
    environment: Mapping[str, str]
    overrides: Mapping[str, Any]

    def winner(self, name: str) -> str | None:
        """What sets a setting whatever the file says, if anything does."""
        variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
        if name in self.overrides:
            return "the command line"
        is_set = any(text and given.upper() == variable for given, text in self.environment.items())
        return f"the environment variable {variable}" if is_set else None


def load_settings(
    file: Path | None, environment: Mapping[str, str] = os.environ, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from a YAML file (absent: defaults), the environment and overrides, the later ones winning.

    Environment values are read as YAML, so `DIA_SERVER_LANES='{speech: {models: [hibari], processes: 4}}'` works.

    Raises:
        SettingsError: a file that can't be read, an unknown field, or a value out of range; the message names it.
    """
    text = read_text(file) if file is not None else ""
    return parse_settings(text, file, environment, overrides)


def read_text(file: Path) -> str:
    """What the file says, its ends of lines as they are; nothing if it is absent.

    Raises:
        SettingsError: it can't be read.
    """
    if file.exists() and not file.is_file():
        raise SettingsError(f"{file} is no file")
    try:
        return file.read_bytes().decode() if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"Can't read {file}: {error}") from None


def parse_settings(
    text: str, file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, Any] | None
) -> Settings:
    """As `load_settings`, were `text` what the file says.

    Raises:
        SettingsError: as `load_settings` does.
    """
    merged: dict[str, Any] = _parse_mapping(text, str(file))
    for name, value in environment.items():
        # Compose files set what is unset to nothing.
        if name.startswith(ENVIRONMENT_PREFIX) and value:
            merged[name.removeprefix(ENVIRONMENT_PREFIX).lower()] = _parse_yaml(value, name)
    merged |= overrides or {}
    try:
        settings = msgspec.convert(merged, Settings)
        helpers = {name: lane for name, lane in HELPERS.items() if name not in settings.lanes}
        programs = {
            name: patient_lane(name)
            for name, setup in settings.models.items()
            if "command" in setup and name not in settings.lanes and settings.lane_of(name) is None
        }
        return msgspec.structs.replace(settings, lanes=settings.lanes | helpers | programs)
    except msgspec.ValidationError as error:
        where = (
            f"{file}, the environment ({ENVIRONMENT_PREFIX}…)" if file else f"the environment ({ENVIRONMENT_PREFIX}…)"
        )
        raise SettingsError(f"Invalid settings in {where} or the command line: {error}{_guess(merged)}") from None


def _guess(names: Iterable[str]) -> str:
    """What names of settings that there are not may have been meant to be."""
    known = Settings.__struct_fields__
    close = [(name, get_close_matches(name.lower(), known, 1)) for name in names if name not in known]
    return "".join(f"; did you mean `{found[0]}` by `{name}`?" for name, found in close if found)


def _parse_mapping(text: str, where: str) -> dict[str, Any]:
    content = _parse_yaml(text, where)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{where} must hold `name: value` lines, not a {type(content).__name__}")
    return content


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return load_strictly(text)
    except yaml.MarkedYAMLError as error:
        # Its own words quote the line, which may hold a key.
        mark = error.problem_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SettingsError(f"{where} is not valid YAML{place}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{where} is not valid YAML: {error}") from None
