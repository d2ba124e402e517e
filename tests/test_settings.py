"""The settings: where they come from, which one wins, what an error says, and the reference that is made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import settings_reference
from dia_server.config_file import load_settings
from dia_server.errors import SettingsError
from dia_server.settings import HELPERS, Lane, Settings
from dia_server.strict_yaml import load_strictly


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_no_file_or_an_empty_one_gives_the_defaults(file: Path) -> None:
    assert load_settings(None, {}) == load_settings(file, {}) == Settings()
    file.write_text("# nothing set\n")
    assert load_settings(file, {}) == Settings()


def test_the_environment_wins_over_the_file_and_overrides_win_over_both(file: Path) -> None:
    file.write_text("port: 1\nmax_queue: 2\nengine: noise\n")
    settings = load_settings(file, {"DIA_SERVER_PORT": "3", "DIA_SERVER_MAX_QUEUE": "4", "PORT": "5"}, {"port": 6})
    assert (settings.port, settings.max_queue, settings.engine) == (6, 4, "noise")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("host", "0.0.0.0", "0.0.0.0"),  # noqa: S104
        ("segment_timeout", "5", 5.0),
        ("beat_timeout", "null", None),
        ("debug_mode", "true", True),
        ("voice_aliases", "{}", {}),
        (
            "lanes",
            "{speech: {models: [noise], processes: 4}}",
            HELPERS | {"speech": Lane(models=("noise",), processes=4)},
        ),
    ],
)
def test_environment_values_are_yaml(name: str, text: str, value: Any) -> None:
    assert getattr(load_settings(None, {f"DIA_SERVER_{name.upper()}": text}), name) == value


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("prot: 8000", "prot"),
        ("port: '8000'", "port"),
        ("port: 65536", "port"),
        ("port: -1", "port"),
        ("max_queue: 0", "max_queue"),
        ("segment_timeout: 0", "segment_timeout"),
        ("segment_timeout: .nan", "segment_timeout"),
        ("log_format: xml", "log_format"),
        ("debug_mode: 1", "debug_mode"),
        ("lanes: {speech: {models: [noise], processes: 0}}", "processes"),
        ("lanes: {speech: {models: []}}", "models"),
        ("lanes: {speech: {models: [noise], slots: 1}}", "slots"),
        ("port: 8000\nmax_queue: 5\nport: 9000", r"config\.yaml .* in line 3, column 1: 'port' stands here twice"),
        ("lanes:\n  speech: {models: [noise]}\n  speech: {models: [hibari]}", "in line 3, column 3: 'speech' stands"),
        ("Port: 8000", "unknown field `Port`; did you mean `port` by `Port`"),
        ("port: [", "config.yaml"),
        ("- port", "config.yaml"),
        ("just text", "config.yaml"),
        ("\x00", "config.yaml"),
    ],
)
def test_an_error_in_the_file_names_what_is_wrong(file: Path, content: str, named: str) -> None:
    file.write_text(content)
    with pytest.raises(SettingsError, match=named):
        load_settings(file, {})


def test_what_is_merged_in_may_be_there_already(file: Path) -> None:
    lanes = "speech: &speech {models: [noise], processes: 1}\n  spare: {<<: *speech, models: [hibari]}"
    file.write_text(f"lanes:\n  {lanes}")
    assert load_settings(file, {}).lanes["spare"] == Lane(models=("hibari",), processes=1)


def test_keys_that_are_merged_are_not_counted() -> None:
    text = "b: &b {k: 0}\nx: {inner: &a {<<: *b, k: 1}}\nc: {<<: *a}\nd: {<<: *a, <<: *b}"
    assert load_strictly(text) == yaml.safe_load(text)


@pytest.mark.parametrize("content", [b"\xff\xfe\xfd", None])
def test_an_unreadable_file_is_an_error(file: Path, content: bytes | None) -> None:
    file.write_bytes(content) if content else file.mkdir()
    with pytest.raises(SettingsError, match=r"config\.yaml"):
        load_settings(file, {})


@pytest.mark.parametrize(
    ("name", "text"),
    [("DIA_SERVER_PORT", "http"), ("DIA_SERVER_PORT", "["), ("DIA_SERVER_PROT", "1")],
)
def test_an_error_in_the_environment_names_the_variable(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"(?i){name}|{name.removeprefix('DIA_SERVER_')}"):
        load_settings(None, {name: text})


def test_the_lane_of_a_model() -> None:
    settings = Settings(lanes={"speech": Lane(models=("hibari",)), "spare": Lane(models=("hibari", "noise"))})
    assert settings.lane_of("hibari") == "speech"
    assert settings.lane_of("noise") == "spare"
    assert settings.lane_of("dia") is None


def test_the_reference_is_up_to_date() -> None:
    page = settings_reference.ROOT / "docs/configuration.md"
    assert page.read_text(encoding="utf-8") == settings_reference.configuration_md(), "run `make format`"


def test_the_generated_file_with_every_line_taken_in_gives_the_defaults() -> None:
    without_meanings = re.sub(r"^# \S.*", "", settings_reference.config_yaml(), flags=re.MULTILINE)
    content = yaml.safe_load(re.sub(r"^#", "", without_meanings, flags=re.MULTILINE))
    assert msgspec.convert(content, Settings) == Settings()
    assert set(content) == set(Settings.__struct_fields__)
