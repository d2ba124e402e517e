"""The command line, as a person types it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sound
from conftest import SENTENCE, Server


def run(*arguments: str, folder: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dia_server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        input=text,
        env=os.environ | {"COLUMNS": "200"},
    )


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "pcm"])
def test_say_writes_the_bytes_that_a_server_sends(server: Server, tmp_path: Path, audio_format: str) -> None:
    said = run("say", SENTENCE, "-o", f"fox.{audio_format}", "--seed", "7", folder=tmp_path)
    assert said.returncode == 0
    assert "seed 7" in said.stderr
    assert (tmp_path / f"fox.{audio_format}").read_bytes() == server.speak(seed=7, response_format=audio_format).content
    # Nothing else is left in a folder that is nobody's home.
    assert [file.name for file in tmp_path.iterdir()] == [f"fox.{audio_format}"]


def test_say_reads_long_texts_from_standard_input(tmp_path: Path) -> None:
    said = run("say", "-", "-o", "long.wav", "--model", "noise", folder=tmp_path, text=f"{SENTENCE}\n" * 95)
    assert said.returncode == 0
    assert sound.seconds((tmp_path / "long.wav").read_bytes(), "wav") > 170


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Hello.", "-o", "hello.txt"], "the name must end in one of .wav, .mp3"),
        (["...", "-o", "hello.wav"], "nothing to speak"),
        (["Hello.", "-o", "hello.wav", "--voice", "nobody"], "Voice 'nobody' not found"),
        (["Hello.", "-o", "no/such/folder.wav"], "there is no folder"),
        (["Hello.", "-o", "hello.wav", "--speed", "nan"], "'speed' must be from 0.25 to 4.0"),
    ],
)
def test_say_explains_what_is_wrong_and_leaves_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    said = run("say", *arguments, folder=tmp_path)
    assert said.returncode == 1
    assert words in said.stderr
    assert "Traceback" not in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_models_and_their_licences(tmp_path: Path) -> None:
    shown = run("models", folder=tmp_path)
    assert shown.returncode == 0
    for words in ("hibari (default)", "noise", "ready", "Apache-2.0"):
        assert words in shown.stdout


def test_doctor_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices" / "bad.yaml").write_text("style: [", encoding="utf-8")
    (tmp_path / "config.yaml").write_text("port: 0", encoding="utf-8")
    told = run("doctor", folder=tmp_path)
    assert told.returncode == 1
    assert "bad.yaml" in told.stdout
    assert "wav, mp3, opus, aac, flac, pcm" in told.stdout
    (tmp_path / "voices" / "bad.yaml").write_text("style: neutral", encoding="utf-8")
    assert run("doctor", folder=tmp_path).returncode == 0


@pytest.mark.parametrize("command", [[], ["serve"], ["say"]])
def test_help_teaches_by_example(tmp_path: Path, command: list[str]) -> None:
    shown = run(*command, "--help", folder=tmp_path)
    assert shown.returncode == 0
    assert "Examples:\n" in shown.stdout
    assert "dia-server s" in shown.stdout
