"""Speech as jobs, through the Dia contract's routes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import NOISE, SENTENCE, START_SECONDS, Server, make_home, running_server, wait_until
from contract import configured
from dia_server.audio.encode import FORMATS

SETTINGS = {
    **NOISE,
    "voice_aliases": {},
    "max_audio_seconds": 60,
    "segment_characters": 100,
}
LONG = "One sentence follows upon another, and nobody is in a hurry. " * 6
TOO_LONG = "One sentence follows upon another, and nobody is in a hurry. " * 20
NOBODY = "00000000-0000-0000-0000-000000000000"
CALL = {"text": SENTENCE, "voice_id": "static", "seed": 7}


def jobs_home(home: Path, **settings: Any) -> Path:
    """A home with a voice besides that takes a tenth of the time that it speaks."""
    make_home(home, SETTINGS | settings)
    brisk = {"models": {"noise": {"event_samples": 22_050, "event_seconds": 0.05}}}
    (home / "voices" / "brisk.yaml").write_text(json.dumps(brisk), encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(jobs_home(tmp_path_factory.mktemp("jobs"))) as running:
        running.wait_until_ready()
        yield running


def submit(server: Server, headers: dict[str, str] | None = None, **fields: Any) -> str:
    answer = server.post("/generate?async_mode=true", CALL | fields, headers=headers or {})
    assert answer.status_code == 200, answer.text
    return answer.json()["job_id"]


def job(server: Server, job_id: str) -> dict[str, Any]:
    return server.get(f"/jobs/{job_id}").json()


def wait_for(server: Server, job_id: str, status: str = "completed") -> dict[str, Any]:
    wait_until(lambda: job(server, job_id)["status"] == status)
    return job(server, job_id)


def events(server: Server, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    text = server.get(f"/jobs/{job_id}/events").text
    parts = [part.splitlines() for part in text.split("\n\n") if part.startswith("event: ")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def test_a_job_is_accepted_at_once(server: Server) -> None:
    answer = server.post("/generate?async_mode=true", CALL)
    assert answer.status_code == 200
    assert answer.json() == {
        "job_id": answer.json()["job_id"],
        "status": "pending",
        "message": "Job queued for processing",
    }


def test_a_job_tells_all_about_itself(server: Server) -> None:
    found = wait_for(server, submit(server, speed=1.5, role="user", temperature=1.25, max_tokens=500))
    for name in ("created_at", "started_at", "completed_at"):
        assert found.pop(name).endswith("Z")
    assert found.pop("generation_time") > 0
    assert found.pop("worker_id").endswith("/server_1")
    path = server.home / found.pop("file_path")
    assert path.parent == server.home / "tasks"
    assert found.pop("file_size") == path.stat().st_size
    assert found.pop("id") == path.name.split(".")[0]
    assert found == {
        "status": "completed",
        "text": SENTENCE,
        "processed_text": f"[S1] {SENTENCE}",
        "voice_id": "static",
        "response_format": "wav",
        "speed": 1.5,
        "role": "user",
        "seed": 7,
        "temperature": 1.25,
        "cfg_scale": None,
        "top_p": None,
        "max_tokens": 500,
        "use_torch_compile": None,
        "audio_prompt_used": None,
        "error_message": None,
        "progress": 1.0,
        "queue_position": None,
    }


@pytest.mark.parametrize("audio_format", FORMATS)
def test_a_result_is_what_a_listener_would_have_got(server: Server, audio_format: str) -> None:
    job_id = submit(server, response_format=audio_format)
    wait_for(server, job_id)
    answer = server.get(f"/v1/jobs/{job_id}/result")
    heard = server.post("/generate", CALL | {"response_format": audio_format})
    # What is streamed can't tell its length; a flac does that at its beginning.
    start = 42 if audio_format == "flac" else 0
    assert answer.content[start:] == heard.content[start:]
    for name in ("content-type", "x-seed"):
        assert answer.headers[name] == heard.headers[name]
    extension = FORMATS[audio_format].extension
    assert f'filename="speech_{job_id[:8]}.{extension}"' in answer.headers["content-disposition"]
    assert answer.headers["x-audio-duration"] == "2.933"


def test_a_drawn_seed_is_told_and_makes_the_same_again(server: Server) -> None:
    job_id = submit(server, seed=-1)
    seed = wait_for(server, job_id)["seed"]
    answer = server.get(f"/jobs/{job_id}/result")
    assert answer.headers["x-seed"] == str(seed)
    assert server.post("/generate", CALL | {"seed": seed}).content == answer.content


def test_results_have_heads(server: Server) -> None:
    job_id = submit(server)
    wait_for(server, job_id)
    whole = server.get(f"/jobs/{job_id}/result")
    head = httpx.head(f"{server.url}/jobs/{job_id}/result")
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "content-disposition", "x-seed"):
        assert head.headers[name] == whole.headers[name]


def test_what_is_not_completed_has_no_result_yet(server: Server) -> None:
    running = submit(server, voice_id="slow", text=LONG)
    wait_for(server, running, "processing")
    waiting = [submit(server, voice_id="slow", text=LONG) for _ in range(3)][-1]
    for job_id, status in ((running, "processing"), (waiting, "pending")):
        answer = server.get(f"/jobs/{job_id}/result")
        assert (answer.status_code, answer.json()) == (425, {"detail": f"Job not completed (status: {status})"})
    assert job(server, waiting)["queue_position"] >= 1
    stats = server.get("/queue/stats").json()
    assert stats["processing_jobs"] >= 1
    assert stats["pending_jobs"] >= 1
    assert (stats["total_workers"], stats["active_workers"], stats["memory_pressure"]) == (1, 1, {})
    for each in (
        server.get("/jobs?status=processing").json()["jobs"] + server.get("/jobs?status=pending").json()["jobs"]
    ):
        server_answer = httpx.delete(f"{server.url}/jobs/{each['id']}")
        assert server_answer.json() == {"message": f"Job '{each['id']}' cancelled"}
    # Whoever ran it has stopped.
    wait_until(lambda: server.busy() == 0)
    answer = server.get(f"/jobs/{running}/result")
    assert (answer.status_code, answer.json()) == (400, {"detail": "Job was cancelled"})
    answer = httpx.delete(f"{server.url}/jobs/{running}")
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"Job '{running}' is cancelled")


def test_a_job_that_fails_says_why(server: Server) -> None:
    job_id = submit(server, text=TOO_LONG)
    found = wait_for(server, job_id, "failed")
    assert found["error_message"].startswith("The clip is longer than 60 s")
    answer = server.get(f"/jobs/{job_id}/result")
    assert answer.status_code == 500
    assert answer.json() == {"detail": f"Job failed: {found['error_message']}"}
    assert answer.headers["x-should-retry"] == "false"
    assert events(server, job_id)[-1][0] == "failed"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("GET", "/result"), ("HEAD", "/result"), ("GET", "/events")]
)
def test_an_unknown_job_is_not_found(server: Server, method: str, path: str) -> None:
    for family in ("", "/v1"):
        answer = httpx.request(method, f"{server.url}{family}/jobs/{NOBODY}{path}")
        assert answer.status_code == 404
        if method != "HEAD":
            assert answer.json()["detail"] == f"Job '{NOBODY}' not found"
            assert ("error" in answer.json()) == bool(family)


@pytest.mark.parametrize(
    "query", ["status=done", "limit=0", "limit=501", "limit=x", "offset=-1", "since=yesterday", "since=99999999-01-01"]
)
def test_lists_refuse_what_they_do_not_know(server: Server, query: str) -> None:
    answer = server.get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert f"'{query.partition('=')[0]}'" in answer.json()["detail"]


@pytest.mark.parametrize("field", [{"text": ""}, {"voice_id": "nobody"}, {"speed": 9}, {"response_format": "ogg"}])
def test_a_job_that_cannot_be_done_is_refused_at_once(server: Server, field: dict[str, Any]) -> None:
    before = server.get("/jobs").json()["total"]
    refused = server.post("/generate?async_mode=true", CALL | field)
    assert refused.json() == server.post("/generate", CALL | field).json()
    assert refused.status_code in (400, 404)
    assert server.get("/jobs").json()["total"] == before


def test_jobs_are_listed_the_newest_first(server: Server) -> None:
    ids = [submit(server, voice_id=voice) for voice in ("static", "pieces", "static")]
    for job_id in ids:
        wait_for(server, job_id)
    newest = job(server, ids[0])["created_at"]
    found = server.get("/jobs", params={"since": newest, "voice_id": "static", "status": "completed"}).json()
    assert [each["id"] for each in found["jobs"]] == [ids[2], ids[0]]
    assert found["filtered"] == 2
    assert found["total"] >= 3
    assert [each["id"] for each in server.get("/v1/jobs?limit=1&offset=1").json()["jobs"]] == [ids[1]]
    assert server.get(f"/jobs?since={time.time() + 3600}").json()["jobs"] == []


def test_a_watched_job_tells_how_it_gets_on(server: Server) -> None:
    job_id = submit(server, voice_id="brisk", text=LONG)
    told = events(server, job_id)
    assert {name for name, _ in told[:-1]} == {"progress"}
    shares = [state["progress"] for _, state in told]
    assert shares == sorted(shares)
    assert any(0 < share < 1 for share in shares)
    name, last = told[-1]
    assert (name, last["id"], last["status"], last["progress"]) == ("completed", job_id, "completed", 1.0)
    assert [name for name, _ in events(server, job_id)] == ["completed"]


def test_the_same_key_is_the_same_job(server: Server) -> None:
    key = {"Idempotency-Key": "the first"}
    with ThreadPoolExecutor(8) as clients:
        ids = set(clients.map(lambda _: submit(server, key), range(16)))
    assert len(ids) == 1
    answer = server.post("/generate?async_mode=true", CALL | {"seed": 8}, headers=key)
    assert answer.status_code == 409
    assert "another request" in answer.json()["detail"]
    assert submit(server, {"Idempotency-Key": "the second"}) not in ids
    wait_for(server, *ids)
    again = server.post("/generate?async_mode=true", CALL, headers=key).json()
    assert again == {"job_id": ids.pop(), "status": "completed", "message": "Job is completed"}


@pytest.mark.parametrize("key", ["", "x" * 256, "\u00e9"])
def test_what_cannot_be_a_key_is_refused(server: Server, key: str) -> None:
    answer = server.post("/generate?async_mode=true", CALL, headers={b"Idempotency-Key": key.encode()})
    assert answer.status_code == 400
    assert "'Idempotency-Key'" in answer.json()["detail"]


def test_clearing_forgets_what_is_finished(server: Server) -> None:
    done = wait_for(server, submit(server))
    running = submit(server, voice_id="slow", text=LONG)
    wait_for(server, running, "processing")
    answer = httpx.delete(f"{server.url}/jobs").json()["message"].split()
    assert (answer[0], answer[2:]) == ("Cleared", ["completed", "jobs"])
    assert int(answer[1]) >= 1
    assert [each["id"] for each in server.get("/jobs").json()["jobs"]] == [running]
    assert not (server.home / done["file_path"]).exists()
    httpx.delete(f"{server.url}/jobs/{running}")


def test_a_result_that_somebody_removed_is_lost(server: Server) -> None:
    done = wait_for(server, submit(server))
    (server.home / done["file_path"]).unlink()
    answer = server.get(f"/jobs/{done['id']}/result")
    assert answer.status_code == 500
    assert answer.json()["detail"].startswith(f"The result of job '{done['id']}' is lost")


@pytest.fixture(scope="module")
def accepting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs no jobs, and has two callers."""
    home = jobs_home(tmp_path_factory.mktemp("accepting"), api_keys=["one", "two"], run_jobs_in_server=False)
    with running_server(home) as running:
        running.headers = as_caller("one")
        yield running


def as_caller(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def test_a_full_queue_takes_no_more_jobs(accepting: Server) -> None:
    with configured(accepting, max_pending_jobs=accepting.get("/queue/stats").json()["pending_jobs"] + 2):
        for _ in range(2):
            submit(accepting)
        answer = accepting.post("/v1/generate?async_mode=true", CALL)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_full")
        assert answer.headers["retry-after"] == "30"
        assert accepting.post("/generate", CALL).status_code == 200


def test_callers_have_keys_of_their_own(accepting: Server) -> None:
    assert httpx.get(f"{accepting.url}/jobs").status_code == 401
    before = accepting.get("/jobs").json()["total"]
    ids = {submit(accepting, as_caller(caller) | {"Idempotency-Key": "same"}) for caller in ("one", "two", "one")}
    assert len(ids) == 2
    assert accepting.get("/jobs").json()["total"] == before + 2


@dataclass(frozen=True)
class Restarted:
    """A server over the jobs that another one left behind.

    Attributes:
        left: the status and the attempts of each job while neither ran.
        done: a job that was done a day and an hour before.
        running: the job that the first server was at when it was told to end.
        waiting: one that waited.
        imitating: another one, which speaks with a recording that was deleted while it waited.
        heard: what was heard of that while the recording was there.
    """

    server: Server
    left: dict[str, tuple[str, int]]
    done: dict[str, Any]
    running: str
    waiting: str
    imitating: str
    heard: bytes


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restarted]:
    lanes = {"speech": {"models": ["noise", "hibari"], "processes": 1}}
    home = jobs_home(tmp_path_factory.mktemp("restarted"), lanes=lanes)
    call = {"text": SENTENCE, "voice_id": "mine", "seed": 7}
    with running_server(home) as first:
        first.wait_until_ready()
        done = wait_for(first, submit(first))
        recording = first.speak(SENTENCE * 2, "heron", model="hibari", seed=1, response_format="wav").content
        form = {"data": {"prompt_id": "me"}, "files": {"audio_file": ("me.wav", recording)}}
        assert httpx.post(f"{first.url}/audio_prompts/upload", timeout=60, **form).status_code == 200
        with configured(first, engine="hibari"):
            assert first.post("/voice_mappings", {"voice_id": "mine", "audio_prompt": "me"}).is_success
            heard = first.post("/generate", call).content
        running = submit(first, voice_id="brisk", text=LONG)
        waiting = submit(first)
        with configured(first, engine="hibari"):
            imitating = submit(first, **call)
        wait_for(first, running, "processing")
        for path in ("/voice_mappings/mine", "/audio_prompts/me"):
            assert httpx.delete(first.url + path).status_code == 200
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(timeout=START_SECONDS) == 0
    (home / "tasks" / "mine.wav").write_bytes(b"mine")
    for blob in (home / "blobs").iterdir():
        # Too old to belong to a request that is about to become a job.
        os.utime(blob, (0, 0))
    with closing(sqlite3.connect(home / "dia-server.db")) as database:
        rows = database.execute("SELECT id, status, attempts FROM jobs").fetchall()
        database.execute("UPDATE jobs SET completed_at = completed_at - 25 * 3600")
        database.commit()
    left = {job_id: (status, attempts) for job_id, status, attempts in rows}
    with running_server(home) as second:
        yield Restarted(second, left, done, running, waiting, imitating, heard)


def test_jobs_survive_their_server(restarted: Restarted) -> None:
    assert restarted.left[restarted.running] == restarted.left[restarted.waiting] == ("pending", 0)
    server = restarted.server
    for job_id, text in ((restarted.running, LONG), (restarted.waiting, SENTENCE)):
        wait_for(server, job_id)
        heard = server.post("/generate", CALL | {"text": text})
        assert server.get(f"/jobs/{job_id}/result").content == heard.content
        assert [path.stem for path in (server.home / "tasks").glob(f"{job_id}*")] == [job_id]


def test_results_expire(restarted: Restarted) -> None:
    server, done = restarted.server, restarted.done
    wait_until(lambda: not (server.home / done["file_path"]).exists())
    wait_until(lambda: job(server, done["id"])["file_path"] is None)
    answer = server.get(f"/jobs/{done['id']}/result")
    assert (answer.status_code, answer.json()) == (
        404,
        {"detail": f"Job '{done['id']}' not found (result expired)"},
    )
    assert (server.home / "tasks" / "mine.wav").exists()


def test_a_job_speaks_with_the_recording_that_it_began_with(restarted: Restarted) -> None:
    assert restarted.left[restarted.imitating] == ("pending", 0)
    wait_for(restarted.server, restarted.imitating)
    assert restarted.server.get(f"/jobs/{restarted.imitating}/result").content == restarted.heard


def test_jobs_have_the_only_worker_whichever_models_it_has_loaded(restarted: Restarted) -> None:
    server = restarted.server
    for model in ("noise", "hibari"):
        assert server.speak(model=model).is_success
    with configured(server, engine="hibari"):
        job_id = submit(server, text=SENTENCE, voice_id="skylark")
    wait_for(server, job_id)
