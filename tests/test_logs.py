"""The log of clips: what it tells, what is kept of them, and for how long."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import NOISE, SENTENCE, Server, make_home, running_server, wait_until
from contract import configured

SETTINGS = {**NOISE, "debug_mode": True, "database_timeout": 1.0}
CALL = {"text": SENTENCE, "voice_id": "static", "seed": 7}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(make_home(tmp_path_factory.mktemp("noisy"), SETTINGS)) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def server(noisy: Server) -> Server:
    """One that has logged and saved nothing."""
    delete(noisy, "/logs").raise_for_status()
    shutil.rmtree(noisy.home / "outputs", ignore_errors=True)
    return noisy


def generation(server: Server, **fields: Any) -> str:
    answer = server.post("/generate", CALL | fields)
    assert answer.status_code == 200
    return answer.headers["x-generation-id"]


def logs(server: Server, **query: Any) -> dict[str, Any]:
    return server.get("/logs", params=query).json()


def delete(server: Server, path: str) -> httpx.Response:
    return httpx.delete(server.url + path)


def test_clips_are_logged_without_their_words(server: Server) -> None:
    ids = [generation(server, voice_id=voice) for voice in ("static", "pieces", "static")]
    found = logs(server)
    assert [entry["id"] for entry in found["logs"]] == ids[::-1]
    assert (found["total"], found["filtered"]) == (3, 3)
    entry = server.get(f"/logs/{ids[0]}").json()
    assert entry.pop("timestamp").endswith("Z")
    assert entry.pop("generation_time") > 0
    nothing = {"audio_prompt_used": None, "file_path": None, "file_size": None}
    assert entry == {"id": ids[0], "text": "", "processed_text": "", "voice": "static", **nothing}
    assert [entry["id"] for entry in logs(server, voice="static", limit=1, offset=1)["logs"]] == [ids[0]]
    answer = server.get(f"/logs/{ids[0]}/download")
    assert answer.status_code == 404
    assert "save_outputs" in answer.json()["detail"]
    assert server.get("/v1/logs/nothing").json()["detail"] == "Log entry 'nothing' not found"
    assert delete(server, f"/logs/{ids[1]}").json() == {"message": f"Log entry '{ids[1]}' deleted"}
    assert delete(server, f"/logs/{ids[1]}").status_code == 404
    assert delete(server, "/logs").json() == {"message": "Cleared 2 log entries"}
    assert logs(server) == {"logs": [], "total": 0, "filtered": 0}
    assert not (server.home / "outputs").exists()


def test_a_clip_that_failed_or_was_left_is_not_logged(server: Server) -> None:
    with configured(server, max_audio_seconds=1):
        assert server.post("/generate", CALL).status_code == 400
        with httpx.stream("POST", f"{server.url}/generate", json=CALL | {"voice_id": "slow", "response_format": "mp3"}):
            pass
        wait_until(lambda: server.busy() == 0)
        assert logs(server)["total"] == 0


def test_saved_clips_have_their_words_and_a_sidecar(server: Server) -> None:
    with configured(server, save_outputs=True, show_prompts=True):
        answer = server.post("/generate", CALL | {"response_format": "mp3"})
        entry = server.get(f"/logs/{answer.headers['x-generation-id']}").json()
        assert (entry["text"], entry["processed_text"]) == (SENTENCE, f"[S1] {SENTENCE}")
        path = server.home / entry["file_path"]
        assert path.read_bytes() == answer.content
        assert entry["file_size"] == len(answer.content)
        download = server.get(f"/logs/{entry['id']}/download")
        assert (download.content, download.headers["content-type"]) == (answer.content, "audio/mpeg")
        sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert sidecar["id"] == entry["id"]
        assert sidecar["sha256"] == hashlib.sha256(answer.content).hexdigest()
        assert sidecar["plan"]["seed"] == 7
        delete(server, f"/logs/{entry['id']}")
        assert list((server.home / "outputs").iterdir()) == []


def test_jobs_are_logged_under_their_ids(server: Server) -> None:
    with configured(server, save_outputs=True):
        job_id = server.post("/generate?async_mode=true", CALL).json()["job_id"]
        wait_until(lambda: server.get(f"/jobs/{job_id}").json()["status"] == "completed")
        result = server.get(f"/jobs/{job_id}/result").content
        assert server.get(f"/logs/{job_id}/download").content == result
        delete(server, "/logs")
        assert server.get(f"/jobs/{job_id}/result").content == result


def test_old_clips_go_and_what_others_put_there_stays(server: Server, tmp_path: Path) -> None:
    with configured(server, save_outputs=True):
        old, replaced, new = [server.get(f"/logs/{generation(server)}").json() for _ in range(3)]
    home = make_home(tmp_path, SETTINGS | {"save_outputs": True})
    shutil.copytree(server.home / "outputs", home / "outputs")
    with (
        closing(sqlite3.connect(server.home / "dia-server.db")) as database,
        closing(sqlite3.connect(home / "dia-server.db")) as copy,
    ):
        database.backup(copy)
    own = home / "outputs" / "own.wav"
    own.write_bytes(b"own")
    (home / replaced["file_path"]).write_bytes(b"another recording")
    for path in (home / "outputs").iterdir():
        os.utime(path, (0, 0))
    with closing(sqlite3.connect(home / "dia-server.db")) as database:
        aged = "UPDATE generations SET created_at = created_at - 25 * 3600 WHERE id != ?"
        database.execute(aged, (new["id"],))
        database.commit()
    with running_server(home) as later:
        wait_until(lambda: logs(later)["total"] == 1)
        left = {path.name for path in (home / "outputs").iterdir()}
        kept = [Path(entry["file_path"]) for entry in (replaced, new)]
        assert left == {"own.wav", *(path.name for path in kept), *(path.with_suffix(".json").name for path in kept)}
        assert (home / replaced["file_path"]).read_bytes() == b"another recording"
        assert not (home / old["file_path"]).exists()


def test_a_clip_is_delivered_even_if_it_cannot_be_saved(server: Server) -> None:
    outputs = server.home / "outputs"
    outputs.write_text("a file where the folder should be")
    with configured(server, save_outputs=True):
        entry = server.get(f"/logs/{generation(server)}").json()
        assert entry["file_path"] is None
        assert "output can't be saved" in server.log()
    outputs.unlink()


def test_a_preview_is_not_logged(server: Server) -> None:
    with configured(server, save_outputs=True):
        assert server.get("/preview/static").status_code == 200
        assert logs(server)["total"] == 0


def test_what_removes_all_takes_no_filter(server: Server) -> None:
    generation(server)
    for path in ("/logs?voice=nobody", "/jobs?status=failed"):
        refused = delete(server, path)
        assert refused.status_code == 400
        assert "takes no filters" in refused.json()["detail"]
    assert logs(server)["total"] == 1


def test_a_refused_delete_removes_no_file(server: Server) -> None:
    outputs, tasks = server.home / "outputs", server.home / "tasks"
    with configured(server, save_outputs=True):
        generation(server)
        job = server.post("/generate?async_mode=true", CALL).json()["job_id"]
        wait_until(lambda: server.get(f"/jobs/{job}").json()["status"] == "completed")
        saved = sorted(outputs.iterdir())
        logs(server)
        with closing(sqlite3.connect(server.home / "dia-server.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            assert [delete(server, path).status_code for path in ("/logs", "/jobs")] == [503, 503]
        assert sorted(outputs.iterdir()) == saved
        assert server.get(f"/jobs/{job}/result").status_code == 200
        assert [delete(server, path).status_code for path in ("/logs", "/jobs")] == [200, 200]
        assert list(outputs.iterdir()) == list(tasks.iterdir()) == []
