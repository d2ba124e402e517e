"""Voices as files: what is read, what is wrong with the rest, and how edits are noticed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dia_server.audio.wav import read_info
from dia_server.errors import VoiceNotFound
from dia_server.voices import store as store_module
from dia_server.voices.store import MAX_FILE_BYTES, VoiceStore, install_examples, install_starters
from dia_server.voices.text import Voice


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "voices"
    folder.mkdir()
    return folder


def test_all_fields_are_read(folder: Path) -> None:
    (folder / "wren.yaml").write_text(
        "style: calm\nprimary_speaker: S2\naudio_prompt: wren_prompt\naudio_prompt_transcript: Zoë sings.\n"
        "voice_seed: 999999\nspeakers: {S1: skylark}\nmodels: {hibari: {pitch: 1.5}}\n",
        encoding="utf-8",
    )
    assert VoiceStore(folder).get("wren") == Voice(
        style="calm",
        primary_speaker="S2",
        audio_prompt="wren_prompt",
        audio_prompt_transcript="Zoë sings.",
        voice_seed=999_999,
        speakers={"S1": "skylark"},
        models={"hibari": {"pitch": 1.5}},
    )


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "{}", "style: neutral"])
def test_everything_has_a_default(folder: Path, text: str) -> None:
    (folder / "plain.yaml").write_text(text)
    assert VoiceStore(folder).get("plain") == Voice()


def test_a_missing_voice_is_named_with_those_that_there_are(folder: Path) -> None:
    for name in ("b", "a", "a-b"):
        (folder / f"{name}.yaml").touch()
    with pytest.raises(VoiceNotFound) as caught:
        VoiceStore(folder).get("x")
    assert str(caught.value) == "Voice 'x' not found. Available voices: ['a', 'a-b', 'b']"
    assert (caught.value.status, caught.value.code) == (404, "voice_not_found")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("bad.yaml", "stile: calm", ["unknown field `stile`", "the fields are style, primary_speaker"]),
        ("bad.yaml", "voice_seed: 0", [">= 1", "$.voice_seed"]),
        ("bad.yaml", "voice_seed: 1000000", ["<= 999999"]),
        ("bad.yaml", "style: no", ["Expected `str`, got `bool`", "$.style"]),
        ("bad.yaml", "primary_speaker: S3", ["S3", "$.primary_speaker"]),
        ("bad.yaml", "audio_prompt: ../secret", ["$.audio_prompt"]),
        ("bad.yaml", "models: {hibari: loud}", ["Expected `object`"]),
        ("bad.yaml", "style: calm\n  x: [", ["not valid YAML", "line 2, column 4"]),
        ("bad.yaml", "- style", ["`name: value` lines"]),
        ("bad.yaml", "just words", ["`name: value` lines"]),
        ("bad.yaml", "style: &a calm\naudio_prompt_transcript: *a", ["line 2", "aliases"]),
        ("bad.yaml", "models: &a {x: *a}", ["aliases"]),
        ("bad.yaml", "!!python/object/apply:os.system [id]", ["not valid YAML"]),
        ("bad.yaml", "style: sad\nstyle: happy", ["'style' stands here twice", "line 2, column 1"]),
        ("bad.yaml", "models: {noise: {seconds: 1, seconds: 2}}", ["'seconds' stands here twice"]),
        ("bad.yaml", "!!timestamp soon", ["not valid YAML"]),
        ("bad.yaml", "voice_seed: " + "1" * 5000, ["not valid YAML"]),
        ("bad.yaml", "[" * 5000, ["not valid YAML"]),
        ("bad.yaml", "#" * (MAX_FILE_BYTES + 1), [f"{MAX_FILE_BYTES} at most"]),
        ("bad.yaml", b"style: \xff", ["not UTF-8", "byte 8"]),
        ("bad.yml", "style: calm", ["rename it to bad.yaml"]),
        ("-bad.yaml", "", ["begins with a letter or digit"]),
        ("b..d.yaml", "", ["no '..'"]),
        ("bad\n.yaml", "", ["rename the file"]),
        ("b" * 65 + ".yaml", "", ["1 to 64"]),
    ],
)
def test_a_broken_file_is_explained_and_harms_no_other(
    folder: Path, name: str, text: str | bytes, words: list[str]
) -> None:
    (folder / "good.yaml").touch()
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    store = VoiceStore(folder)
    assert list(store.list()) == ["good"]
    problems = store.problems
    assert list(problems) == [name]
    assert all(word in problems[name] for word in words), problems[name]


@given(content=st.one_of(st.binary(max_size=80), st.text("{}[]:-?&*!|>'\"%@#, \nax0", max_size=80).map(str.encode)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_content_breaks_the_store(folder: Path, content: bytes) -> None:
    (folder / "any.yaml").write_bytes(content)
    store = VoiceStore(folder)
    assert set(store.list()) | set(store.problems) in ({"any"}, {"any.yaml"})


def test_other_files_are_no_voices(folder: Path) -> None:
    for name in ("README.md", ".hidden.yaml", ".swap.yaml.swp", "skylark.yaml~"):
        (folder / name).touch()
    (folder / "folder.yaml").mkdir()
    (folder / "link.yaml").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.yaml")
    store = VoiceStore(folder)
    assert (store.list(), store.problems) == ({}, {})


def test_a_link_to_a_file_is_a_voice(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("style: calm")
    (folder / "linked.yaml").symlink_to(tmp_path / "shared")
    assert VoiceStore(folder).get("linked").style == "calm"


def test_edits_count_at_once(folder: Path) -> None:
    store = VoiceStore(folder)
    assert store.list() == {}
    file = folder / "wren.yaml"
    file.write_text("voice_seed: 1")
    assert store.get("wren").voice_seed == 1
    status = file.stat()
    file.write_text("voice_seed: 2")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if within one tick of the file system's clock
    assert store.get("wren").voice_seed == 2
    file.write_text("voice_sed: 2")
    assert list(store.problems) == ["wren.yaml"]
    file.rename(folder / "owl.yaml")
    (folder / "owl.yaml").write_text("")
    assert (list(store.list()), dict(store.problems)) == (["owl"], {})
    (folder / "owl.yaml").unlink()
    assert store.list() == {}


def test_unchanged_files_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.yaml", "b.yaml"):
        (folder / name).touch()
        os.utime(folder / name, (1, 1))
    reads: list[str] = []
    read = store_module._read  # noqa: SLF001 - counts what the outside can't see
    monkeypatch.setattr(store_module, "_read", lambda where, file: (reads.append(file.name), read(where, file))[1])
    store = VoiceStore(folder)
    assert list(store.list()) == list(store.list()) == ["a", "b"]
    assert reads == ["a.yaml", "b.yaml"]
    (folder / "b.yaml").write_text("style: calm")
    os.utime(folder / "b.yaml", (2, 2))
    assert store.get("b").style == "calm"
    assert reads == ["a.yaml", "b.yaml", "b.yaml"]


def test_a_folder_may_vanish_and_return(folder: Path) -> None:
    store = VoiceStore(folder)
    (folder / "a.yaml").touch()
    os.utime(folder / "a.yaml", (1, 1))
    assert list(store.list()) == ["a"]
    folder.rename(folder.with_name("away"))
    assert (store.list(), store.problems) == ({}, {})
    folder.touch()
    assert (store.list(), list(store.problems)) == ({}, ["voices"])
    folder.unlink()
    assert (store.list(), store.problems) == ({}, {})
    folder.with_name("away").rename(folder)
    assert list(store.list()) == ["a"]


def test_starters_come_into_a_new_home(tmp_path: Path) -> None:
    install_starters(tmp_path / "voices")
    store = VoiceStore(tmp_path / "voices")
    assert set(store.list()) == {
        *("finch", "heron", "jay", "nightjar", "owl", "raven", "robin", "skylark", "swan", "wren")
    }
    assert store.get("skylark") == Voice(models={"hibari": {}})
    assert store.problems == {}
    assert [path.name for path in tmp_path.iterdir()] == ["voices"]
    assert (tmp_path / "voices").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_examples_come_into_a_new_home(tmp_path: Path) -> None:
    install_examples(tmp_path / "examples")
    for path in (tmp_path / "examples").glob("*.wav"):
        assert 3 <= read_info(path).seconds <= 8
        assert path.with_suffix(".txt").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("install", [install_starters, install_examples])
def test_a_folder_that_is_there_stays_as_it_is(folder: Path, install: Callable[[Path], None]) -> None:
    install(folder)
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.symlink_to(folder / "nowhere")
    install(folder)
    assert folder.is_symlink()


def test_starters_come_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        (path.parent / "half.yaml").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "replacing", fail)
    with pytest.raises(OSError, match="No space"):
        install_starters(tmp_path / "voices")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_starts_at_the_same_time_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, replacing = tmp_path / "examples", store_module.replacing

    def overtaken(path: Path) -> AbstractContextManager[IO[bytes]]:
        folder.mkdir(exist_ok=True)
        (folder / "theirs.wav").touch()
        return replacing(path)

    monkeypatch.setattr(store_module, "replacing", overtaken)
    install_examples(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]
    assert [path.name for path in folder.iterdir()] == ["theirs.wav"]
