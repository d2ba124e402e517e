"""Paths that tasks name: within their folders, or refused before anything is read."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from conftest import Server, make_home, running_server, wait_until
from contract import configured
from dia_server.settings import Settings
from index_tts import NOISE, data_uri, ended, post, refusal, submit, wav_of

SECRET = b"RIFF nobody may read this"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    lane = {"speech": {"models": ["noise"], "processes": 1}}
    settings = {"engine": "noise", "lanes": lane, "max_upload_bytes": 300_000, "max_uploads": 1}
    home = make_home(tmp_path_factory.mktemp("paths"), settings)
    (home.parent / "outside").mkdir()
    (home.parent / "outside" / "secret.wav").write_bytes(SECRET)
    with running_server(home) as running:
        running.wait_until_ready()
        yield running


def outside(server: Server) -> list[str]:
    return [path.name for path in (server.home.parent / "outside").iterdir()]


def speaker(path: str) -> dict[str, object]:
    return NOISE | {"spk_audio_prompt": path}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "examples/../config.yaml",
        "../outside/secret.wav",
        "examples/../../outside/secret.wav",
        "./../outside/secret.wav",
        "voices/static.yaml",
        "blobs/x.wav",
        "config.yaml/",
        "examples/",
        "examples/.",
        "//etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.wav",
        "examples/a\0b.wav",
        "",
    ],
)
@pytest.mark.parametrize("field", ["spk_audio_prompt", "emo_audio_prompt"])
def test_other_places_are_refused(server: Server, field: str, path: str) -> None:
    assert refusal(server, NOISE | {field: path}).startswith(f"'{field}'")


@pytest.mark.parametrize("target", ["../../outside/secret.wav", "../config.yaml", "/dev/zero", "loop.wav"])
def test_links_that_lead_out_are_refused(server: Server, target: str) -> None:
    link = server.home / "examples" / "loop.wav"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    assert refusal(server, speaker("examples/loop.wav")) == (
        "'spk_audio_prompt': 'examples/loop.wav' leads out of its folder"
    )
    blobs = [path.read_bytes() for path in (server.home / "blobs").glob("*")]
    assert SECRET not in blobs


def test_folders_that_lead_out_are_refused(server: Server) -> None:
    (server.home / "datasets").mkdir(exist_ok=True)
    link = server.home / "datasets" / "away"
    link.symlink_to(server.home.parent / "outside")
    assert "leads out of its folder" in refusal(server, speaker("datasets/away/secret.wav"))
    assert "leads out of its folder" in refusal(server, speaker("datasets/away/nonesuch.wav"))


def test_links_within_the_folders_are_followed(server: Server) -> None:
    link = server.home / "examples" / "same.wav"
    link.symlink_to("voice_01.wav")
    assert ended(server, submit(server, speaker("examples/same.wav")))["status"] == "done"


def test_pipes_devices_and_folders_are_refused(server: Server) -> None:
    pipe = server.home / "examples" / "pipe.wav"
    os.mkfifo(pipe)
    (server.home / "examples" / "folder.wav").mkdir()
    names = ["pipe", "folder"]
    try:
        os.mknod(server.home / "examples" / "device.wav", 0o20666, os.makedev(1, 5))
        names.append("device")
    except PermissionError:
        pass  # who runs this may not make any
    for name in names:
        assert "is no file that holds a recording" in refusal(server, speaker(f"examples/{name}.wav"))
    with pytest.raises(OSError, match="No such device") as raised:
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    assert raised.value.errno == errno.ENXIO


def test_a_file_that_is_too_large_is_refused(server: Server) -> None:
    huge = server.home / "examples" / "huge.wav"
    with huge.open("wb") as file:
        file.truncate(2**40)
    assert "is larger than the 300000 bytes" in refusal(server, speaker("examples/huge.wav"))
    with huge.open("wb") as file:
        file.truncate(300_000)
    assert post(server, speaker("examples/huge.wav")).status_code == 200


def test_data_uris_are_held_to_the_same(server: Server) -> None:
    assert post(server, speaker(data_uri(bytes(300_000)))).status_code == 200
    assert "larger than the 300000 bytes" in refusal(server, speaker(data_uri(bytes(300_001))))
    for wrong in (
        "data:audio/wav;base64",
        "data:audio/wav,RIFF",
        "data:;base64,UklG=UklG",
        "data:;base64,Ukl",
        "data:",
    ):
        assert "data URI" in refusal(server, speaker(wrong))


@pytest.mark.parametrize(
    "path",
    [
        "mine.wav",
        "tasks/mine.mp3",
        "tasks/.wav",
        "tasks/.hidden.wav",
        "tasks/../mine.wav",
        "/srv/mine.wav",
        "examples/mine.wav",
        "outputs/../../mine.wav",
        "tasks/550e8400-e29b-41d4-a716-446655440000.wav",
        "outputs/20260101-120000-0123abcd.wav",
        "outputs/away/mine.wav",
        "outputs/folder.wav",
        f"tasks/{'a' * 252}.wav",
        f"outputs/none/{'a' * 300}.wav",
        f"outputs/{'a' * 300}/mine.wav",
        "outputs/" + "a/" * 300 + "mine.wav",
        "outputs/" + "a/" * 3_000 + "mine.wav",
        "tasks/a\0.wav",
        "tasks/a\n.wav",
        "tasks/a\x1b[31m.wav",
    ],
)
def test_outputs_elsewhere_are_refused(server: Server, path: str) -> None:
    outputs = server.home / "outputs"
    (outputs / "folder.wav").mkdir(parents=True, exist_ok=True)
    if not (outputs / "away").is_symlink():
        (outputs / "away").symlink_to(server.home.parent / "outside")
    assert refusal(server, NOISE | {"output_path": path}).startswith("'output_path'")
    assert outside(server) == ["secret.wav"]


def test_the_longest_names_are_taken(server: Server) -> None:
    path = f"outputs/{'a' * 251}.wav"
    found = ended(server, submit(server, NOISE | {"output_path": path}))
    assert (server.home / path).read_bytes() == wav_of(found)


@pytest.mark.parametrize("name", ["a" * 252, "é" * 200])
def test_a_recording_with_a_name_that_is_too_long_is_not_found(server: Server, name: str) -> None:
    found = ended(server, submit(server, speaker(f"examples/{name}.wav")))
    assert (found["status"], "File name too long" in found["error"]) == ("error", True)


def test_a_folder_that_is_led_out_meanwhile_is_not_written_to(server: Server) -> None:
    """The path was fine when the task was accepted."""
    long = NOISE | {"spk_audio_prompt": "slow", "output_path": "outputs/later/mine.wav"}
    task_id = submit(server, long)
    (server.home / "outputs").mkdir(exist_ok=True)
    (server.home / "outputs" / "later").symlink_to(server.home.parent / "outside")
    found = ended(server, task_id)
    assert (found["status"], "leads out of its folder" in found["error"]) == ("error", True)
    assert outside(server) == ["secret.wav"]


def test_tasks_with_one_output_keep_their_own_audio(server: Server) -> None:
    fields = {"output_path": "tasks/shared.wav"}
    ids = [submit(server, NOISE | fields | {"seed": seed}) for seed in (1, 2)]
    wavs = [wav_of(ended(server, task_id)) for task_id in ids]
    assert wavs[0] != wavs[1]
    assert [(server.home / "tasks" / f"{task_id}.wav").read_bytes() for task_id in ids] == wavs
    assert (server.home / "tasks" / "shared.wav").read_bytes() in wavs


def test_parameters_have_the_room_of_other_bodies(server: Server) -> None:
    assert post(server, NOISE | {"note": "a" * 200_000}).status_code == 200
    answer = post(server, NOISE | {"note": "a" * 300_000})
    assert (answer.status_code, "Besides recordings" in answer.json()["detail"]) == (413, True)
    assert post(server, NOISE | {"note": "a" * 37_000_000}).status_code == 413


def test_as_many_large_bodies_come_in_as_there_may_be_uploads(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = "POST /tts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n{"
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(head.encode())
        large = speaker(data_uri(bytes(299_000)))
        wait_until(lambda: post(server, large).status_code == 503)
        answer = post(server, large)
        assert answer.headers["retry-after"] == "1"
        assert "large requests are open" in answer.json()["detail"]
        assert post(server, NOISE).status_code == 200
    wait_until(lambda: post(server, large).status_code == 200)


def test_a_whole_upload_fits_into_a_task(server: Server) -> None:
    default = Settings()
    with configured(server, max_upload_bytes=default.max_upload_bytes, max_uploads=default.max_uploads):
        assert post(server, speaker(data_uri(bytes(26_214_400)))).status_code == 200
        assert "larger than" in refusal(server, speaker(data_uri(bytes(26_214_401))))
