"""IndexTTS2's task API, row by row; docs/contracts/index-tts2.md names each of these tests."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest

import sound
from conftest import SENTENCE, Server, wait_until
from contract import configured
from dia_server.tasks import EMOTIONS
from index_tts import EXAMPLE, NOISE, data_uri, delete, ended, post, refusal, spoken, submit, task, wav_of
from prompts import recording
from recordings import LYING

# Minutes of noise at its own pace, so that it can be asked about while it is made.
LONG = NOISE | {"text": (SENTENCE + " ") * 90, "spk_audio_prompt": "slow"}
# Runners claim up to ten, two of which are spoken at once.
MANY = 12


@contextmanager
def queue(server: Server) -> Iterator[list[str]]:
    """Tasks of which the first runs and the last waits."""
    ids = [submit(server, LONG) for _ in range(MANY)]
    try:
        wait_until(lambda: task(server, ids[0])["status"] == "running")
        yield ids
    finally:
        for task_id in ids:
            delete(server, task_id)


def check_values(server: Server, field: str, allowed: Iterable[Any], refused: Iterable[Any]) -> None:
    """A task takes these values, and null for the default; others are a 400 that names the field."""
    for value in (None, *allowed):
        answer = post(server, NOISE | {field: value})
        assert (value, answer.status_code) == (value, 200), answer.text
        is_used = value is None
        assert (field in answer.json().get("unused_params", [])) != is_used
    for value in refused:
        assert refusal(server, NOISE | {field: value}).startswith(f"'params.{field}")


def test_the_first_request_works_as_pasted(server: Server) -> None:
    answer = post(server, EXAMPLE)
    assert answer.status_code == 200
    task_id = answer.json()["task_id"]
    assert str(uuid.UUID(task_id)) == task_id
    found = ended(server, task_id)
    assert found["status"] == "done", found
    assert found["params"] == EXAMPLE
    assert found["result"] == f"tasks/{task_id}.wav"
    wav = wav_of(found)
    assert sound.seconds(wav, "wav") > 0.4
    assert (server.home / found["result"]).read_bytes() == wav
    assert (server.home / "tasks" / "output.wav").read_bytes() == wav
    assert found["unused_params"] == answer.json()["unused_params"]
    assert {"cfg_value", "inference_timesteps"} <= set(found["unused_params"])


def test_task_text(server: Server) -> None:
    assert refusal(server, {"spk_audio_prompt": "static"}) == "'params.text' is required"
    assert "nothing to speak" in refusal(server, NOISE | {"text": " "}).lower()
    assert "allowed are 4096" in refusal(server, NOISE | {"text": "a" * 4097})
    assert refusal(server, NOISE | {"text": 5}).startswith("'params.text'")
    assert server.post("/tts", {}).json() == {"detail": "'params' is required"}


def test_task_speaker(server: Server) -> None:
    assert refusal(server, {"text": "Hello"}) == "'params.spk_audio_prompt' is required"
    assert "there is no audio prompt or voice 'nobody'" in refusal(server, NOISE | {"spk_audio_prompt": "nobody"})
    said = recording("slt")
    form, files = {"prompt_id": "task_speaker"}, {"audio_file": ("said.flac", said.file)}
    httpx.post(f"{server.url}/audio_prompts/upload", data=form, files=files, timeout=60).raise_for_status()
    (server.home / "datasets").mkdir(exist_ok=True)
    (server.home / "datasets" / "said.flac").write_bytes(said.file)
    call = {"text": "Hello world", "seed": 7}
    by_path = spoken(server, call | {"spk_audio_prompt": "datasets/said.flac"})
    uri = data_uri(said.file)
    assert by_path == spoken(server, call | {"spk_audio_prompt": uri})
    wrapped = uri[:100] + "".join(f"{uri[start : start + 76]}\n" for start in range(100, len(uri), 76))
    assert by_path == spoken(server, call | {"spk_audio_prompt": wrapped})
    assert by_path == spoken(server, call | {"spk_audio_prompt": "task_speaker"})
    voice = {"voice_id": "task_speaker", "audio_prompt": "task_speaker", "style": "sad"}
    server.post("/voice_mappings", voice).raise_for_status()
    as_voice = server.speak("Hello world", voice="task_speaker", seed=7, response_format="wav").content
    assert by_path != as_voice == spoken(server, call | {"spk_audio_prompt": "task_speaker"})
    httpx.delete(f"{server.url}/voice_mappings/task_speaker").raise_for_status()
    by_voice = spoken(server, call | {"spk_audio_prompt": "owl"})
    assert by_voice == server.speak("Hello world", voice="owl", seed=7, response_format="wav").content
    assert by_voice != by_path


def test_a_transcript_beside_the_recording_counts(server: Server) -> None:
    said = recording("slt")
    folder = server.home / "datasets"
    folder.mkdir(exist_ok=True)
    (folder / "plain.flac").write_bytes(said.file)
    (folder / "told.flac").write_bytes(said.file)
    (folder / "told.txt").write_text(said.transcript, encoding="utf-8")
    call = {"text": "Hello world", "seed": 7}
    plain, told = (spoken(server, call | {"spk_audio_prompt": f"datasets/{name}.flac"}) for name in ("plain", "told"))
    assert plain != told


def test_a_recording_that_is_missing_or_none_ends_the_task(server: Server) -> None:
    missing = ended(server, submit(server, {"text": "Hello", "spk_audio_prompt": "examples/nonesuch.wav"}))
    assert missing["status"] == "error"
    assert "examples/nonesuch.wav" in missing["error"]
    none = ended(server, submit(server, {"text": "Hello", "spk_audio_prompt": "examples/voice_01.txt"}))
    assert (none["status"], none["error"].startswith("Failed to process audio file")) == ("error", True)
    lying = ended(server, submit(server, {"text": "Hello", "spk_audio_prompt": data_uri(LYING)}))
    assert (lying["status"], lying["error"].startswith("Failed to process audio file")) == ("error", True)
    for found in (missing, none, lying):
        assert found["result"] is None
        assert "audio_data" not in found


def test_task_emotion_vector(server: Server) -> None:
    call = {"text": "It is all over now.", "spk_audio_prompt": "owl", "seed": 7}
    neutral = spoken(server, call)
    assert spoken(server, call | {"emo_vector": [0] * 8}) == neutral
    happy = spoken(server, call | {"emo_vector": [0.8, 0, 0, 0, 0, 0, 0, 0]})
    assert happy != neutral
    assert spoken(server, call | {"emo_vector": [1.6, 0, 0, 0, 0, 0, 0, 0]}) == happy
    assert spoken(server, call | {"emo_vector": [1e308, 0, 0, 0, 0, 0, 0, 0]}) == happy
    weak = spoken(server, call | {"emo_vector": [0.8, 0, 0, 0, 0, 0, 0, 0], "emo_alpha": 0.5})
    assert weak == spoken(server, call | {"emo_vector": [0.4, 0, 0, 0, 0, 0, 0, 0]})
    for wrong in ([0.5] * 7, [0.5] * 9, [], [-0.1] + [0] * 7, ["a"] + [0] * 7, 0.5, [None] * 8):
        assert refusal(server, call | {"emo_vector": wrong}).startswith("'params.emo_vector")
    body = b'{"params": {"text": "Hi", "spk_audio_prompt": "owl", "emo_vector": [NaN, 0, 0, 0, 0, 0, 0, 0]}}'
    headers = {"content-type": "application/json"}
    assert httpx.post(f"{server.url}/tts", content=body, headers=headers).status_code == 400


def test_task_cfg_value(server: Server) -> None:
    check_values(server, "cfg_value", (2.0, 3, 0.1), (0, -1.0, "2", True))


def test_task_inference_timesteps(server: Server) -> None:
    check_values(server, "inference_timesteps", (1, 10, 100), (0, 101, 2.5, "10"))


@pytest.mark.parametrize("field", ["normalize", "denoise", "retry_badcase", "use_random", "verbose"])
def test_task_switches(server: Server, field: str) -> None:
    check_values(server, field, (True, False), (1, "true"))


def test_task_retry_badcase_max_times(server: Server) -> None:
    check_values(server, "retry_badcase_max_times", (0, 3, 10), (-1, 11, 1.5))


def test_task_retry_badcase_ratio_threshold(server: Server) -> None:
    check_values(server, "retry_badcase_ratio_threshold", (6.0, 0.5), (0, -6.0, "6"))


@pytest.mark.parametrize("field", ["use_torch_compile", "use_deepspeed"])
def test_task_optimisations(server: Server, field: str) -> None:
    check_values(server, field, (True, False), (1, "true"))


def test_task_output_path(server: Server) -> None:
    wanted = ("tasks/mine.wav", "outputs/mine.wav", "outputs/a/b/mine.wav")
    ids = [submit(server, NOISE | {"output_path": path, "seed": seed}) for seed, path in enumerate(wanted)]
    for path, task_id in zip(wanted, ids, strict=True):
        found = ended(server, task_id)
        assert found["result"] == f"tasks/{task_id}.wav"
        assert (server.home / path).read_bytes() == wav_of(found)
    assert ended(server, submit(server, NOISE))["result"].startswith("tasks/")


def test_task_seed(server: Server) -> None:
    assert spoken(server, NOISE | {"seed": 5}) == spoken(server, NOISE | {"seed": 5})
    assert spoken(server, NOISE | {"seed": -1}) != spoken(server, NOISE | {"seed": None})
    drawn = post(server, NOISE | {"seed": None})
    found = ended(server, drawn.json()["task_id"])
    heard = server.get(f"/tts/{found['id']}/audio")
    assert drawn.headers["x-seed"] == heard.headers["x-seed"] == str(found["seed"])
    assert spoken(server, NOISE | {"seed": found["seed"]}) == heard.content
    for wrong in (-2, 2**63, 1.5):
        assert refusal(server, NOISE | {"seed": wrong}).startswith("'params.seed'")


def test_task_model(server: Server) -> None:
    found = post(server, {**NOISE, "spk_audio_prompt": "examples/voice_01.wav"})
    assert found.json()["unused_params"] == ["spk_audio_prompt"]
    refused = refusal(server, NOISE | {"model": "nonesuch"})
    assert refused.startswith("'model': there is no model 'nonesuch'; there are ")
    assert "hibari" in refused


def test_submit_answer(server: Server) -> None:
    answer = post(server, NOISE)
    assert list(answer.json()) == ["task_id"]
    again = [post(server, NOISE, **{"Idempotency-Key": "a task"}).json() for _ in range(2)]
    assert again[0] == again[1] != answer.json()
    assert post(server, NOISE | {"seed": 8}, **{"Idempotency-Key": "a task"}).status_code == 409


def test_task_answer(server: Server) -> None:
    before = time.time()
    task_id = submit(server, NOISE)
    found = ended(server, task_id)
    after = time.time()
    assert set(found) == {
        "id", "status", "result", "audio_data", "worker_id", "submit_time", "start_time", "end_time", "duration",
        "model", "seed", "params",
    }  # fmt: skip
    assert (found["id"], found["model"], found["params"]) == (task_id, "noise", NOISE)
    times = [found[name] for name in ("submit_time", "start_time", "end_time")]
    assert times == sorted(times)
    assert before - 0.01 <= times[0]
    assert times[-1] <= after + 0.01
    assert found["duration"] == pytest.approx(found["end_time"] - found["start_time"], abs=0.002)
    assert isinstance(found["worker_id"], str)
    wav = wav_of(found)
    heard = server.get(f"/tts/{task_id}/audio")
    assert (heard.headers["content-type"], heard.headers["x-model"], heard.content) == ("audio/wav", "noise", wav)


def test_task_statuses(server: Server) -> None:
    with queue(server) as ids:
        waiting = task(server, ids[-1])
        assert waiting["status"] == "pending"
        assert set(waiting) == {"id", "status", "result", "worker_id", "submit_time", "model", "seed", "params"}
        assert (waiting["result"], waiting["worker_id"]) == (None, None)
        assert set(task(server, ids[0])) == {*waiting, "start_time"}
        assert server.get(f"/tts/{ids[-1]}/audio").json() == {"detail": "Task not completed (status: pending)"}
    assert ended(server, submit(server, NOISE))["status"] == "done"
    failed = ended(server, submit(server, NOISE | {"spk_audio_prompt": "tasks/nonesuch.wav"}))
    assert failed["status"] == "error"
    assert server.get(f"/tts/{failed['id']}/audio").json() == {"detail": f"Task failed: {failed['error']}"}


def test_tasks_listed(server: Server) -> None:
    ids = [submit(server, NOISE | {"seed": seed}) for seed in range(3)]
    for task_id in ids:
        ended(server, task_id)
    done = server.get("/tasks").json()
    assert done == server.get("/tasks?status=done").json()
    assert done["total"] == len(done["tasks"])
    assert [found["id"] for found in done["tasks"][:3]] == ids[::-1]
    found = done["tasks"][0]
    whole = task(server, found["id"])
    whole.pop("audio_data")
    assert found == whole
    page = server.get("/tasks?limit=1&offset=1").json()
    assert ([found["id"] for found in page["tasks"]], page["total"]) == ([ids[1]], done["total"])
    with queue(server) as ids:
        assert ids[0] in {found["id"] for found in server.get("/tasks?status=running").json()["tasks"]}
        assert ids[-1] in {found["id"] for found in server.get("/tasks?status=pending").json()["tasks"]}
    failed = ended(server, submit(server, NOISE | {"spk_audio_prompt": "tasks/nonesuch.wav"}))
    assert server.get("/tasks?status=error").json()["tasks"][0]["error"] == failed["error"]
    for limit in (0, -1, 2**63):
        assert server.get(f"/tasks?limit={limit}").status_code == 400
    refused = server.get("/tasks?status=lost")
    assert refused.status_code == 400
    assert refused.json()["detail"].endswith("allowed are done, error, pending, running")


def test_parameters_that_nobody_knows_are_named(server: Server) -> None:
    answer = post(server, NOISE | {"emo_vektor": [1, 0, 0, 0, 0, 0, 0, 0]})
    assert (answer.status_code, "emo_vektor" in answer.json()["unused_params"]) == (200, True)


def test_recordings_are_not_repeated_in_lists(server: Server) -> None:
    sent = data_uri(b"RIFF" * 50_000)
    text = "Data: the figures, as of today."
    params = NOISE | {"text": text}
    task_id = submit(server, params | {"spk_audio_prompt": sent, "emo_audio_prompt": sent})
    shown = f"data:audio/wav;base64,… ({len(sent) - 22} characters)"
    expected = params | {"spk_audio_prompt": shown, "emo_audio_prompt": shown}
    assert ended(server, task_id)["params"] == expected


def test_task_deleted(server: Server) -> None:
    done = ended(server, submit(server, NOISE | {"output_path": "outputs/kept.wav"}))["id"]
    failed = ended(server, submit(server, NOISE | {"spk_audio_prompt": "tasks/nonesuch.wav"}))["id"]
    with queue(server) as ids:
        for task_id in (done, failed, ids[-1], ids[0]):
            answer = delete(server, task_id)
            expected = {"task_id": task_id, "message": f"Task '{task_id}' deleted"}
            assert (answer.status_code, answer.json()) == (200, expected)
            missing = {"detail": f"Task '{task_id}' not found"}
            for again in (delete(server, task_id), server.get(f"/tts/{task_id}")):
                assert (again.status_code, again.json()) == (404, missing)
            assert list((server.home / "tasks").glob(f"{task_id}*")) == []
    # Whoever ran them has stopped.
    wait_until(lambda: server.busy() == 0)
    assert (server.home / "outputs" / "kept.wav").exists()


def test_no_such_task(server: Server) -> None:
    for path in ("/tts/nonesuch", "/tts/nonesuch/audio"):
        answer = server.get(path)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Task 'nonesuch' not found"})
    assert delete(server, "nonesuch").status_code == 404


def test_a_lost_file_is_an_error(server: Server) -> None:
    found = ended(server, submit(server, NOISE))
    (server.home / found["result"]).unlink()
    for path in (f"/tts/{found['id']}", f"/tts/{found['id']}/audio"):
        answer = server.get(path)
        assert answer.status_code == 500
        assert found["result"] in answer.json()["detail"]
    delete(server, found["id"]).raise_for_status()


def test_a_row_that_cannot_be_read_is_an_error(server: Server) -> None:
    task_id = ended(server, submit(server, NOISE))["id"]
    with closing(sqlite3.connect(server.home / "dia-server.db")) as database:
        database.execute("UPDATE jobs SET request = 'no JSON' WHERE id = ?", [task_id])
        database.commit()
    answer = server.get(f"/tts/{task_id}")
    assert (answer.status_code, list(answer.json())) == (500, ["detail"])
    assert task_id in answer.json()["detail"]
    assert delete(server, task_id).status_code == 200


def test_a_task_of_an_older_version_is_still_there(server: Server) -> None:
    task_id = ended(server, submit(server, NOISE))["id"]
    with closing(sqlite3.connect(server.home / "dia-server.db")) as database:
        database.execute("UPDATE jobs SET request = json_remove(request, '$.emotion') WHERE id = ?", [task_id])
        database.commit()
    assert task(server, task_id)["model"] == "noise"
    assert delete(server, task_id).status_code == 200


def test_a_task_that_takes_too_long_fails(server: Server) -> None:
    with configured(server, task_timeout_seconds=0.5):
        found = ended(server, submit(server, LONG))
    assert found["status"] == "error"
    assert found["error"] == "The task took longer than 0.5 s (task_timeout_seconds)"
    assert list((server.home / "tasks").glob(f"{found['id']}*")) == []


def test_bad_tasks_do_not_block_others(server: Server) -> None:
    ids = [submit(server, NOISE | {"spk_audio_prompt": f"tasks/none{number}.wav"}) for number in range(10)]
    assert ended(server, submit(server, NOISE))["status"] == "done"
    assert {ended(server, task_id)["status"] for task_id in ids} == {"error"}


@pytest.mark.parametrize("method", ["vector", "audio", "text"])
def test_emotion_examples(server: Server, method: str) -> None:
    fields = {
        "vector": {"emo_vector": [0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2]},
        "audio": {"emo_audio_prompt": "examples/emo_sad.wav", "emo_alpha": 0.8},
        "text": {"use_emo_text": True, "emo_text": "I'm so excited about this!", "emo_alpha": 0.6},
    }[method]
    call = {"text": "We will see.", "spk_audio_prompt": "owl", "seed": 7}
    found = ended(server, submit(server, call | fields))
    assert wav_of(found) != spoken(server, call)
    assert fields.keys() & set(found.get("unused_params", [])) == set()


def test_the_emotion_that_counts_is_told(server: Server) -> None:
    call = {"text": "I am so happy!", "spk_audio_prompt": "owl", "seed": 7}

    def told(fields: dict[str, Any]) -> dict[str, float] | None:
        return task(server, submit(server, call | fields)).get("emotion")

    voice = server.home / "voices" / "gloomy.yaml"
    voice.write_text("style: sad")
    assert told({"spk_audio_prompt": "gloomy"}) == {"sad": 0.7}
    voice.unlink()
    assert told({}) is told({"emo_vector": [0] * 8}) is told({"emo_audio_prompt": "examples/emo_sad.wav"}) is None
    mixed = told({"use_emo_text": True, "emo_text": "I am happy and sad."})
    assert mixed is not None
    weights = [mixed.get(name, 0.0) for name in EMOTIONS]
    by_text = spoken(server, call | {"use_emo_text": True, "emo_text": "I am happy and sad."})
    assert by_text == spoken(server, call | {"emo_vector": weights})
    assert told({"emo_vector": [0, 1, 0, 0, 0, 0, 1, 0], "emo_alpha": 0.5}) == {"angry": 0.2, "surprised": 0.2}
    read = told({"use_emo_text": True})
    assert read is not None
    assert list(read) == ["happy"]
    assert 0 < read["happy"] <= 0.8
    assert told({"emo_vector": [1] + [0] * 7, "model": "noise", "spk_audio_prompt": "static"}) is None


def test_which_emotion_wins(server: Server) -> None:
    """Text beats the vector, and both the recording; what lost is named, and so is what was sent for nothing."""
    call = {"text": "We will see.", "spk_audio_prompt": "owl", "seed": 7}
    text = {"use_emo_text": True, "emo_text": "I am so happy!"}
    vector = {"emo_vector": [0, 0.5, 0, 0, 0, 0, 0, 0]}
    audio = {"emo_audio_prompt": "examples/emo_sad.wav"}

    def unused(fields: dict[str, Any]) -> list[str]:
        return post(server, call | fields).json().get("unused_params", [])

    assert unused(text | vector | audio) == ["emo_audio_prompt", "emo_vector"]
    assert unused(vector | audio) == ["emo_audio_prompt"]
    assert unused(vector | {"use_emo_text": False, "emo_text": "Joy!"}) == ["emo_text"]
    assert unused({"emo_vector": [0] * 8, "emo_alpha": 0.5}) == ["emo_alpha"]
    assert unused(vector | {"emo_alpha": 0}) == ["emo_vector"]
    assert "emo_audio_prompt" in unused(NOISE | {"emo_audio_prompt": "examples/none.wav"})
    assert ended(server, submit(server, NOISE | {"emo_audio_prompt": "examples/none.wav"}))["status"] == "done"
    assert spoken(server, call | vector | audio) == spoken(server, call | vector)
    assert refusal(server, call | {"use_emo_text": True, "emo_text": "a" * 4097}).startswith("'emo_text' has 4097")
    for field, wrong in (("emo_alpha", 1.1), ("emo_alpha", -0.1), ("use_emo_text", "yes"), ("emo_text", 1)):
        assert refusal(server, call | {field: wrong}).startswith(f"'params.{field}'")


def test_examples_come_with_the_server(server: Server) -> None:
    names = {path.name for path in (server.home / "examples").iterdir()}
    assert {"voice_01.wav", "voice_02.wav", "emo_sad.wav", "emo_happy.wav"} <= names
