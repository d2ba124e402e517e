"""Who is heard in a dialogue that a model reads itself: its tasks' recordings, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from conftest import Server, make_home, running_server, wait_until
from dia_server.blobs import Blobs
from dia_server.errors import BadInput
from dia_server.pool.choice import Choice
from dia_server.services.plan import Plan, SpeechRequest
from dia_server.services.planner import Planner
from dia_server.services.references import References
from dia_server.settings import Settings
from dia_server.voices.prompts import PromptStore
from dia_server.voices.store import VoiceStore
from recordings import voice_like, wav

PLUGIN = Path(__file__).parent / "plugin"
LONG = "[S1] We left at noon, and the road was all mud. [S2] Nobody had warned us of it, so we turned round again. " * 6


class Home:
    """Voices and recordings, and plans of what they say by Dia."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("voices", "audio_prompts"):
            (folder / name).mkdir()
        settings = Settings(engine="dia", voice_aliases={})
        self.prompts = PromptStore(folder / "audio_prompts", settings)
        references = References(self.prompts, Blobs(folder / "blobs"))
        self._planner = Planner(settings, Choice("dia"), VoiceStore(folder / "voices"), references)

    def voice(self, name: str, **fields: Any) -> None:
        (self.folder / "voices" / f"{name}.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")

    def prompt(self, name: str, seconds: float = 2, transcript: str | None = "What I say.") -> None:
        (self.folder / "audio_prompts" / f"{name}.wav").write_bytes(wav(voice_like(seconds)))
        if transcript is not None:
            (self.folder / "audio_prompts" / f"{name}.txt").write_text(transcript, encoding="utf-8")

    async def plan(self, text: str = LONG, voice: str = "ada", **fields: Any) -> Plan:
        return await self._planner.plan(SpeechRequest(text=text, voice=voice, format="wav", seed=1, **fields))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def recordings(plan: Plan) -> list[dict[str, str | None]]:
    return [{speaker: each.transcript for speaker, each in task.references.items()} for task in plan.tasks]


async def test_without_recordings_each_segment_goes_on_from_the_one_before(home: Home) -> None:
    home.voice("ada")
    plan = await home.plan()
    assert len(plan.tasks) == 4
    assert [task.is_chained for task in plan.tasks] == [False, *[True] * 3]
    assert all(task.text.startswith(f"[{task.speaker}] ") and not task.carry for task in plan.tasks)
    assert plan.script == LONG.strip()
    assert plan == await home.plan()


async def test_every_segment_has_the_recordings_of_all_who_speak(home: Home) -> None:
    home.prompt("one", transcript="I am one.")
    home.prompt("two", transcript="I am two.")
    home.voice("ada", audio_prompt="one", speakers={"S2": "bob"})
    home.voice("bob", audio_prompt="two")
    plan = await home.plan()
    assert recordings(plan) == [{"S1": "I am one.", "S2": "I am two."}] * len(plan.tasks)
    assert not any(task.is_chained for task in plan.tasks)
    assert plan.warning is None
    assert recordings(await home.plan("[S2] Only me.")) == [{"S2": "I am two."}]
    assert recordings(await home.plan("Only me.")) == [{"S1": "I am one."}]


async def test_the_voices_own_speaker_has_its_recording(home: Home) -> None:
    home.prompt("one")
    home.voice("ada", audio_prompt="one", primary_speaker="S2")
    assert recordings(await home.plan("Hello.")) == [{"S2": "What I say."}]
    plan = await home.plan("[S1] Hello. [S2] Hi.")
    assert recordings(plan) == [{"S2": "What I say."}]
    assert plan.warning == "S1 has no recording to sound like, and may change its voice within the clip"


async def test_a_dialogue_has_the_options_of_the_voice_itself(home: Home) -> None:
    home.voice("ada", models={"dia": {"top_k": 20}}, speakers={"S2": "bob"})
    home.voice("bob", models={"dia": {"top_k": 40}})
    plan = await home.plan(parameters={"temperature": 1.5, "top_p": 0.5, "cfg_scale": 2.0, "max_tokens": 500})
    assert all(task.options == {"top_k": 20, "temperature": 1.5, "top_p": 0.5, "cfg_scale": 2.0} for task in plan.tasks)
    assert (plan.unused, plan.most_samples) == ((), 500 * 512)
    assert plan.warning is not None
    assert "S2 is spoken with the options of voice 'ada'" in plan.warning


@pytest.mark.parametrize(
    ("seconds", "transcript", "words"),
    [
        (2, None, "POST /audio_prompts/one/transcribe"),
        (2, " \n", "POST /audio_prompts/one/transcribe"),
        (20.5, "Long.", "audio prompt 'one' has 20.5 s, and model 'dia' takes 20 s"),
        (
            2,
            "é" * 254,
            "'one' has 508 bytes, and model 'dia' takes 507 at most; if it says more than the recording, corr",
        ),
        (2, "a" * 508, "PUT /audio_prompts/one/transcript"),
        (
            12,
            "Longer than all.",
            "'one' (12.0 s, 16 bytes of transcript) and 'one' (12.0 s, 16 bytes of transcript) have",
        ),
        (12, "Longer than all.", "more than 23 s together"),
        (2, "é" * 126, "transcripts of more than 501 bytes together"),
        (2, "é" * 126, "PUT /audio_prompts/{id}/transcript"),
    ],
)
async def test_recordings_that_the_model_cannot_use_are_refused(
    home: Home, seconds: float, transcript: str | None, words: str
) -> None:
    home.prompt("one", seconds, transcript)
    home.voice("ada", audio_prompt="one", speakers={"S2": "bob"})
    home.voice("bob", audio_prompt="one")
    with pytest.raises(BadInput) as caught:
        await home.plan(voice_field="voice_id")
    assert words in caught.value.message
    assert caught.value.param == "voice_id"


async def test_recordings_may_be_as_long_as_that(home: Home) -> None:
    home.prompt("one", 11.5, "a" * 250)
    home.prompt("two", 11.5, "a" * 251)
    home.voice("ada", audio_prompt="one", speakers={"S2": "bob"})
    home.voice("bob", audio_prompt="two")
    assert recordings(await home.plan("[S1] Hello. [S2] Hi.")) == [{"S1": "a" * 250, "S2": "a" * 251}]
    home.prompt("one", 20, "a" * 507)
    assert recordings(await home.plan("Hello.")) == [{"S1": "a" * 507}]


async def test_what_dia_cannot_tell_is_named(home: Home) -> None:
    home.voice("ada")
    assert (await home.plan(parameters={"timestamp_granularities": ["word"]})).unused == ("timestamp_granularities",)


async def test_a_recording_that_was_changed_counts_at_once(home: Home) -> None:
    home.prompt("one", 25)
    home.voice("ada", audio_prompt="one")
    with pytest.raises(BadInput, match=r"25\.0 s"):
        await home.plan()
    home.prompt("one", 5)
    assert recordings(await home.plan("Hello.")) == [{"S1": "What I say."}]
    home.prompt("one", 21)
    with pytest.raises(BadInput, match=r"21\.0 s"):
        await home.plan()


@pytest.fixture(scope="module")
def duet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"engine": "duet", "lanes": {"speech": {"models": ["duet"], "processes": 1}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(PLUGIN), prepend=":")
        with running_server(make_home(tmp_path_factory.mktemp("duet"), settings)) as server:
            server.wait_until_ready()
            yield server


def test_a_client_is_told_what_its_recording_lacks(duet: Server) -> None:
    files = {"audio_file": ("mute.wav", wav(voice_like(1.5)))}
    httpx.post(f"{duet.url}/audio_prompts/upload", data={"prompt_id": "mute"}, files=files, timeout=60)
    duet.post("/voice_mappings", {"voice_id": "mute", "audio_prompt": "mute"}).raise_for_status()
    body = {"text": "Hello.", "voice_id": "mute"}
    for path in ("/generate", "/generate?async_mode=true"):
        refused = duet.post(path, body)
        assert refused.status_code == 400, refused.text
        assert "/audio_prompts/mute/transcribe" in refused.text
    refused = duet.speak("Hello.", "mute").json()["error"]
    assert (refused["param"], refused["code"]) == ("voice", "invalid_value")
    wait_until(lambda: duet.busy() == 0)
    assert sum(worker["finished_tasks"] for worker in duet.workers() if worker["lane"] == "speech") == 0
    httpx.put(f"{duet.url}/audio_prompts/mute/transcript", json={"transcript": "Hello."}).raise_for_status()
    assert duet.post("/generate", body).status_code == 200


def test_whoever_stores_what_would_be_refused_is_warned(duet: Server) -> None:
    def upload(name: str, seconds: float) -> dict[str, Any]:
        form, files = (
            {"prompt_id": name},
            {"audio_file": ("it.wav", wav(voice_like(seconds, seed=round(seconds * 10))))},
        )
        return httpx.post(f"{duet.url}/audio_prompts/upload", data=form, files=files, timeout=60).json()

    def write(name: str, transcript: str) -> dict[str, Any]:
        return httpx.put(f"{duet.url}/audio_prompts/{name}/transcript", json={"transcript": transcript}).json()

    def use(voice: str, name: str, **fields: Any) -> dict[str, Any]:
        return duet.post("/voice_mappings", {"voice_id": voice, "audio_prompt": name, **fields}).json()

    assert "POST /audio_prompts/fresh/transcribe" in upload("fresh", 1.2)["warning"]
    unknown = use("fresh", "fresh")["warning"]
    assert unknown.startswith("Speech with it is refused for now: model 'duet' has to know what is said")
    assert "has 96 bytes, and model 'duet' takes 95" in write("fresh", "a" * 96)["warning"]
    assert "warning" not in write("fresh", "a" * 95)
    assert "warning" not in use("again", "fresh")
    assert "has 96 bytes" in use("other", "fresh", audio_prompt_transcript="b" * 96)["warning"]
    changed = httpx.put(f"{duet.url}/voice_mappings/other", json={"audio_prompt_transcript": "b"}).json()
    assert "warning" not in changed
    assert "has to know" in upload("long", 2.5)["warning"]
    assert "audio prompt 'long' has 2.5 s, and model 'duet' takes 2 s" in write("long", "Long.")["warning"]
    form, files = {"name": "mine", "consent": "yes"}, {"audio_sample": ("it.wav", wav(voice_like(1.3)))}
    made = httpx.post(f"{duet.url}/v1/audio/voices", data=form, files=files, timeout=60).json()
    assert (made["object"], "has to know" in made["warning"]) == ("audio.voice", True)
