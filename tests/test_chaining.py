"""Segments that go on from the one before them: in order, with what that left, and ended with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from conftest import Server, make_home, running_server, wait_until
from dia_server.errors import GenerationFailed
from dia_server.pool.pool import Pool
from dia_server.settings import Lane, Settings
from dia_server.tasks import Speak

PLUGIN = Path(__file__).parent / "plugin"
TEXT = "[S1] One two three four. [S2] Five six seven. [S1] Eight nine ten. [S2] Eleven."
SETTINGS: dict[str, Any] = {
    "save_outputs": True,
    "crash_loop_deaths": 1000,
    "task_strikes": 1000,
    "lanes": {"speech": {"models": ["noise", "duet"], "processes": 2}},
}


@pytest.fixture(scope="module")
def duet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = make_home(tmp_path_factory.mktemp("duet"), SETTINGS)
    options = {"event_samples": 4410, "event_seconds": 0.03}
    (home / "voices" / "slowly.yaml").write_text(yaml.safe_dump({"models": {"duet": options}}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PLUGIN), prepend=":")
        with running_server(home) as server:
            server.wait_until_ready()
            yield server


def say(server: Server, text: str = TEXT, voice: str = "static", **fields: Any) -> bytes:
    answer = server.speak(text, voice, model="duet", seed=1, **{"response_format": "pcm", **fields})
    assert answer.status_code == 200, answer.text
    return answer.content


def test_each_segment_goes_on_from_the_one_before(duet: Server) -> None:
    spoken = say(duet)
    assert spoken == say(duet)
    other = say(duet, TEXT.replace("One two", "Two one"))
    assert len(other) == len(spoken)
    # The first segment's noise knows no words, only its length; the ones behind it know what was said.
    first = round(len("[S1] One two three four.") / 15 * 24_000) * 2 - 4000
    assert other[:first] == spoken[:first]
    assert other[-1000:] != spoken[-1000:]


def test_a_replay_gets_the_same_to_go_on_from(duet: Server) -> None:
    quiet = say(duet, voice="slowly")
    with ThreadPoolExecutor() as threads:
        coming = threads.submit(say, duet, voice="slowly")
        kills = 0
        while not coming.done() and kills < 5:
            for worker in duet.workers():
                if worker["busy"] and worker["state"] == "up":
                    os.kill(worker["pid"], signal.SIGKILL)
                    kills += 1
                    wait_until(lambda pid=worker["pid"]: all(each["pid"] != pid for each in duet.workers()))
        assert coming.result() == quiet
    assert kills


def test_what_fails_ends_all_that_would_go_on_from_it(duet: Server) -> None:
    answer = duet.speak(
        "One two three four. You raise it. And so on. And on.", "static", model="duet", seed=1, response_format="wav"
    )
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "generation_failed"
    wait_until(lambda: duet.busy() == 0)
    say(duet)


def test_a_client_that_leaves_ends_the_chain(duet: Server) -> None:
    body = {"input": TEXT * 20, "voice": "slowly", "model": "duet", "response_format": "pcm"}
    with httpx.stream("POST", f"{duet.url}/v1/audio/speech", json=body, timeout=30) as answer:
        next(answer.iter_raw())
    wait_until(lambda: duet.busy() == 0)


def test_no_plan_holds_what_a_segment_left(duet: Server) -> None:
    say(duet)
    file = duet.get("/logs").json()["logs"][0]["file_path"]
    tasks = json.loads((duet.home / file).with_suffix(".json").read_bytes())["plan"]["items"]
    assert [task.get("is_chained", False) for task in tasks] == [False, *[True] * (len(tasks) - 1)]
    assert len(tasks) > 2
    assert not any(task.get("carry") for task in tasks)


def records(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log().splitlines() if line.startswith("{") and line.endswith("}")]


def test_what_a_model_finds_wrong_is_counted_and_logged(duet: Server) -> None:
    say(duet, "Now hush.")
    assert 'dia_findings_total{finding="silent",model="duet"} 1.0' in duet.get("/metrics").text
    line = next(line for line in duet.log().splitlines() if "segment sounds wrong" in line)
    told = json.loads(line)
    assert (told["findings"], told["segment"], told["voice"], told["seed"]) == (["silent"], "1 of 1", "static", 1)
    assert told["advice"] == "speak up"
    request = {"generation_id": told["generation_id"], "event": "request", "findings": ["silent"]}
    wait_until(lambda: any(request.items() <= record.items() for record in records(duet)))


@pytest.fixture
async def pool() -> Any:
    pool = Pool(Settings(lanes={"speech": Lane(models=("noise",), processes=3)}))
    await pool.start()
    async with asyncio.timeout(60):
        while sum(worker.state == "up" for worker in pool.workers()) < 3:
            await asyncio.sleep(0.02)
    yield pool
    await pool.close()


def task(*, is_chained: bool, event_seconds: float = 0.05) -> Speak:
    options = {"event_seconds": event_seconds, "event_samples": 11_025}
    return Speak(model="noise", text="Fifteen letters", seed=1, options=options, is_chained=is_chained)


async def test_a_segment_begins_when_the_one_before_has_ended_though_nobody_heard_it(pool: Pool) -> None:
    with pool.open("noise") as clip:
        runs = [clip.run(task(is_chained=number > 0), urgent=number == 0) for number in range(3)]
        async with asyncio.timeout(60):
            while not all(run.done for run in runs):
                assert sum(worker.busy for worker in pool.workers()) <= 1
                assert [run.ended for run in runs] == sorted((run.ended for run in runs), reverse=True)
                await asyncio.sleep(0.005)
        # One that is asked for late begins as well.
        late = clip.run(task(is_chained=True))
        assert sum([len(heard) async for heard in late if isinstance(heard, bytes)]) == 44_100 * 4


async def test_a_segment_ends_with_the_one_that_it_would_go_on_from(pool: Pool) -> None:
    with pool.open("noise") as clip:
        first, second, third = [clip.run(task(is_chained=number > 0), urgent=number == 0) for number in range(3)]
        first.fail(GenerationFailed("given up"))
        late = clip.run(task(is_chained=True))
        for run in (second, third, late):
            with pytest.raises(GenerationFailed, match="given up"):
                _ = [heard async for heard in run]
    with pool.open("noise") as clip:
        runs = [clip.run(task(is_chained=number > 0), urgent=number == 0) for number in range(3)]
    assert all(run.ended and run.done is None for run in runs)
