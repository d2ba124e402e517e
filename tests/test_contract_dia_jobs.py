"""The Dia contract's jobs and queue, row by row; docs/contracts/dia.md names each of these tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import sound
from conftest import SENTENCE, Server, wait_until
from contract import VOICE, finished, generate, job, send, submit

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# Minutes of speech, so that it can be asked about while it is made.
LONG = (SENTENCE + " ") * 90


@contextmanager
def long_job(server: Server) -> Iterator[str]:
    job_id = submit(server, text=LONG)
    try:
        yield job_id
    finally:
        send(server, "DELETE", f"/jobs/{job_id}")


def test_job_status_example(seraphina: Server) -> None:
    found = finished(seraphina, submit(seraphina, text="Generated text", voice_id=VOICE, seed=42))
    assert found.items() >= {"status": "completed", "text": "Generated text", "voice_id": VOICE, "seed": 42}.items()
    assert TIME.fullmatch(found["created_at"])
    assert TIME.fullmatch(found["completed_at"])
    assert found["created_at"] <= found["completed_at"]
    assert found["generation_time"] > 0
    assert isinstance(found["worker_id"], str)
    assert seraphina.get(f"/jobs/{found['id']}").json() == found


def test_job_of_no_such_id(server: Server) -> None:
    for method, path in (("GET", "/jobs/nonesuch"), ("GET", "/jobs/nonesuch/result"), ("DELETE", "/jobs/nonesuch")):
        answer = send(server, method, path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Job 'nonesuch' not found"})


def test_job_result(server: Server) -> None:
    found = finished(server, submit(server, seed=5))
    result = server.get(f"/jobs/{found['id']}/result")
    assert (result.status_code, result.headers["content-type"]) == (200, "audio/wav")
    name = f"speech_{found['id'][:8]}.wav"
    assert re.search(f'filename="?{re.escape(name)}"?$', result.headers["content-disposition"])
    assert result.content == generate(server, seed=5).content
    assert server.get(f"/jobs/{found['id']}/result").content == result.content


def test_job_result_in_mp3(server: Server) -> None:
    found = finished(server, submit(server, response_format="mp3"))
    result = server.get(f"/jobs/{found['id']}/result")
    assert result.headers["content-type"] == "audio/mpeg"
    assert sound.seconds(result.content, "mp3") > 0.3


def test_job_result_too_early(server: Server) -> None:
    with long_job(server) as job_id:
        early = server.get(f"/jobs/{job_id}/result")
        assert early.status_code == 425
        assert re.fullmatch(r"Job not completed \(status: (pending|processing)\)", early.json()["detail"])


def test_job_cancelled(server: Server) -> None:
    with long_job(server) as job_id:
        answer = send(server, "DELETE", f"/jobs/{job_id}")
        assert (answer.status_code, answer.json()) == (200, {"message": f"Job '{job_id}' cancelled"})
        assert job(server, job_id)["status"] == "cancelled"
        result = server.get(f"/jobs/{job_id}/result")
        assert (result.status_code, result.json()["detail"]) == (400, "Job was cancelled")
        assert send(server, "DELETE", f"/jobs/{job_id}").status_code == 400
        wait_until(lambda: server.busy() == 0)


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_jobs_listed_with_filters(server: Server, prefix: str) -> None:
    send(server, "DELETE", "/jobs").raise_for_status()
    ids = [submit(server, voice_id=voice) for voice in ("skylark", "heron", "skylark")]
    for job_id in ids:
        assert finished(server, job_id)["status"] == "completed"

    def listed(query: str) -> list[str]:
        answer = server.get(f"{prefix}/jobs?{query}").json()
        assert (answer["total"], answer["filtered"]) == (3, len(answer["jobs"]))
        return [found["id"] for found in answer["jobs"]]

    assert listed("") == ids[::-1]
    assert listed("voice_id=skylark") == [ids[2], ids[0]]
    assert listed("status=completed&limit=1&offset=1") == [ids[1]]
    assert listed("status=failed") == []
    assert listed(f"since={job(server, ids[1])['created_at']}") == [ids[2], ids[1]]
    refused = server.get("/jobs?status=lost")
    assert (refused.status_code, "allowed are cancelled, completed, failed" in refused.json()["detail"]) == (400, True)


def test_queue_stats(server: Server) -> None:
    before = server.get("/queue/stats").json()
    finished(server, submit(server))
    with long_job(server):
        during = server.get("/queue/stats").json()
        assert during["pending_jobs"] + during["processing_jobs"] == 1
    assert during["completed_jobs"] == before["completed_jobs"] + 1
    assert during["failed_jobs"] == before["failed_jobs"]
    assert 0 <= during["active_workers"] <= during["total_workers"]
    assert during["total_workers"] >= 2
    for pressure in during["memory_pressure"].values():
        assert 0 <= pressure["pressure"] <= 1
        assert pressure["status"] in ("normal", "high")


def test_completed_jobs_cleared(server: Server) -> None:
    send(server, "DELETE", "/jobs").raise_for_status()
    done = finished(server, submit(server))["id"]
    with long_job(server) as running:
        answer = send(server, "DELETE", "/jobs")
        assert (answer.status_code, answer.json()) == (200, {"message": "Cleared 1 completed jobs"})
        assert server.get(f"/jobs/{done}").status_code == 404
        assert server.get(f"/jobs/{running}").status_code == 200
    assert list((server.home / "tasks").glob(f"{done}*")) == []
