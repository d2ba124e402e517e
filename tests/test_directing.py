"""How a text is said: instructions, styles, pauses, two people in a dialogue, and where the words are."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import wave
from contextlib import ExitStack
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from conftest import SENTENCE, Server, make_home, wait_until
from contract import configured
from dia_server.blobs import Blobs
from dia_server.errors import BadInput, VoiceNotFound
from dia_server.models.hibari import Prosody, Timbre
from dia_server.script.instructions import VOCABULARY, of_style, understand
from dia_server.services.account import TimedWord
from dia_server.services.captions import lines_of, srt
from dia_server.services.casting import missing
from dia_server.services.plan import Plan, SpeechRequest, make_plan
from dia_server.services.references import References
from dia_server.settings import Settings
from dia_server.tasks import EMOTIONS, Delivery, Reference, Speak
from dia_server.voices.prompts import PromptStore
from dia_server.voices.store import VoiceStore


@pytest.mark.parametrize(
    ("instructions", "delivery"),
    [
        ("cheerful and quick", Delivery(speed=1.2, emotion=(0.7, 0, 0, 0, 0, 0, 0, 0))),
        ("Speak in a whisper.", Delivery(style="whisper")),
        ("VERY angry!", Delivery(emotion=(0, 0.98, 0, 0, 0, 0, 0, 0))),
        ("a bit sad", Delivery(emotion=(0, 0, 0.35, 0, 0, 0, 0, 0))),
        ("not angry, don't be too loud, never sad", Delivery()),
        ("avoid sounding angry, without any fear, not at all sad or happy", Delivery()),
        ("not loud but sad", Delivery(emotion=(0, 0, 0.7, 0, 0, 0, 0, 0))),
        ("Narrate in a whisper", Delivery(style="whisper")),
        ("whisper like a newsreader", Delivery(style="news")),
        ("in a deep voice, softly", Delivery(pitch=-3, volume=-5)),
        ("slightly  higher", Delivery(pitch=1.5)),
        ("like an audiobook narrator", Delivery(style="narration")),
        ("happy, angry and sad", Delivery(emotion=(1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0, 0))),
        ("madness, unhappily, fasting", Delivery()),
        ("", Delivery()),
        ("Sprich fr\u00f6hlich", Delivery()),
    ],
)
def test_what_instructions_mean(instructions: str, delivery: Delivery) -> None:
    ours = understand(instructions).delivery
    assert ours.emotion == pytest.approx(delivery.emotion)
    assert (ours.speed, ours.pitch, ours.volume, ours.style) == (
        delivery.speed,
        delivery.pitch,
        delivery.volume,
        delivery.style,
    )


@pytest.mark.parametrize("meaning", VOCABULARY)
def test_every_word_of_the_vocabulary_is_understood(meaning: str) -> None:
    for word in VOCABULARY[meaning]:
        assert understand(f"Say it {word}, please.").understood == (f"{meaning} 1",), word


def test_instructions_of_any_size_are_read_at_once() -> None:
    assert understand("not very " * 20_000 + "x" * 100_000).understood == ()


def test_the_page_lists_the_vocabulary_and_every_control() -> None:
    page = (Path(__file__).parents[1] / "docs" / "directing.md").read_text(encoding="utf-8")
    for words in VOCABULARY.values():
        assert f"| {', '.join(words)} |" in page
    for control in (Prosody, Timbre):
        for field in msgspec.inspect.type_info(control).fields:  # type: ignore[attr-defined]
            low, high = (f"{bound:g}" for bound in (field.type.ge, field.type.le))
            assert f"| `{field.encode_name}` | {low}, {high} |" in page


@pytest.mark.parametrize("style", ["natural", "seed_based", "", "Whisper please"])
def test_any_other_style_is_neutral(style: str) -> None:
    assert of_style(style) == Delivery()


def test_an_emotion_is_a_style() -> None:
    for number, emotion in enumerate(EMOTIONS):
        assert of_style(emotion).emotion[number] == 0.7


@pytest.fixture
def voices(tmp_path: Path) -> VoiceStore:
    return VoiceStore(make_home(tmp_path) / "voices")


def write_voice(tmp_path: Path, name: str, **fields: object) -> None:
    (tmp_path / "voices" / f"{name}.yaml").write_text(yaml.safe_dump(fields))


def plan(voices: VoiceStore, text: str = SENTENCE, voice: str = "skylark", **fields: object) -> Plan:
    request = SpeechRequest(text=text, voice=voice, format="wav", seed=1, **fields)  # type: ignore[arg-type]
    references = References(PromptStore(Path("audio_prompts"), Settings()), Blobs(Path("blobs")))
    return make_plan(request, there=voices.list(), references=references, settings=Settings())


def tasks(made: Plan) -> list[Speak]:
    return [item for item in made.items if isinstance(item, Speak)]


def test_instructions_win_over_the_voices_style(tmp_path: Path, voices: VoiceStore) -> None:
    write_voice(tmp_path, "hush", style="whisper")
    assert tasks(plan(voices, voice="hush"))[0].delivery.style == "whisper"
    told = tasks(plan(voices, voice="hush", instructions="like a newsreader, sad"))[0].delivery
    assert (told.style, told.emotion[2]) == ("news", 0.7)


def test_speeds_multiply_and_the_rest_is_left_to_the_tempo_stage(voices: VoiceStore) -> None:
    made = plan(voices, speed=3.0, instructions="quickly")
    assert tasks(made)[0].delivery.speed == 1.25
    assert made.tempo == pytest.approx(3.6 / 1.25)
    assert plan(voices, speed=4.0, instructions="quickly").tempo == 3.2


def test_what_is_not_understood_is_named(voices: VoiceStore) -> None:
    assert plan(voices, instructions="with gusto").unused == ("instructions",)
    assert plan(voices, instructions="happily").unused == ()
    assert plan(voices, model="noise", instructions="happily").unused == ("instructions",)
    assert plan(voices, model="noise", instructions="happily").understood == ("happy 1",)


def test_untied_speakers_are_partners(voices: VoiceStore) -> None:
    made = plan(voices, "Me first. [S2] You next. [S1] Me again.", "static", model="hibari")
    assert [(task.speaker, task.is_partner) for task in tasks(made)] == [("S1", False), ("S2", True), ("S1", False)]


def test_the_voices_own_speaker_is_its_primary_one(tmp_path: Path, voices: VoiceStore) -> None:
    write_voice(tmp_path, "second", primary_speaker="S2")
    made = plan(voices, "[S1] You. [S2] Me.", "second")
    assert [(task.speaker, task.is_partner) for task in tasks(made)] == [("S1", True), ("S2", False)]


def test_speakers_are_tied_to_voices(tmp_path: Path, voices: VoiceStore) -> None:
    write_voice(tmp_path, "low", models={"hibari": {"prosody": {"f0": 0.6}}}, style="whisper")
    write_voice(tmp_path, "pair", speakers={"S2": "low"})
    first, second = tasks(plan(voices, "[S1] Me. [S2] You.", "pair"))
    assert first.options == {}
    assert second.options == {"prosody": {"f0": 0.6}}
    assert (second.is_partner, second.delivery.style) == (False, "whisper")


def test_speakers_are_tied_by_an_alias_too(tmp_path: Path, voices: VoiceStore) -> None:
    write_voice(tmp_path, "pair", speakers={"S2": "onyx"})
    alone, tied = tasks(plan(voices, "Me.", "heron"))[0], tasks(plan(voices, "[S2] You.", "pair"))[0]
    assert (tied.options, tied.is_partner) == (alone.options, False)


def test_only_speakers_can_be_tied(tmp_path: Path, voices: VoiceStore) -> None:
    write_voice(tmp_path, "odd", speakers={"S3": "heron"})
    assert "S[12]" in voices.problems["odd.yaml"]


def test_a_tie_to_nobody_is_refused(tmp_path: Path, voices: VoiceStore) -> None:
    write_voice(tmp_path, "pair", speakers={"S1": "onyx", "S2": "nobody"})
    there = voices.list()
    assert missing(there["pair"], there, (), {"onyx": "heron"}) == "S2 is tied to voice 'nobody', which is not there"
    assert tasks(plan(voices, "Only me.", "pair"))
    with pytest.raises(BadInput, match="ties S2 to voice 'nobody', which is not there"):
        plan(voices, "[S2] You.", "pair")


def test_options_out_of_range_are_refused_by_name(tmp_path: Path, voices: VoiceStore) -> None:
    write_voice(tmp_path, "giant", models={"hibari": {"timbre": {"warp": 9}}})
    with pytest.raises(BadInput, match=r"voice 'giant' .*<= 1.6 - at `\$.timbre.warp`"):
        plan(voices, voice="giant")


def speech_of(answer: bytes) -> NDArray[np.float64]:
    with wave.open(io.BytesIO(answer)) as file:
        assert file.getframerate() == 24_000
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def longest_silence(samples: NDArray[np.float64]) -> float:
    frames = np.abs(samples[: len(samples) // 240 * 240].reshape(-1, 240)).max(axis=1)
    runs = "".join("0" if frame < 1e-4 else "1" for frame in frames).split("1")
    return max(len(run) for run in runs) / 100


@pytest.mark.parametrize("speed", [1.0, 2.0, 3.0])
def test_a_pause_keeps_its_length_at_any_speed(server: Server, speed: float) -> None:
    text = "Wait for it. [pause:1500ms] Here it is. [PAUSE: 0.25 s]"
    plain = speech_of(server.speak("Wait for it. Here it is.", seed=1, speed=speed).content)
    paused = speech_of(server.speak(text, seed=1, speed=speed).content)
    assert (len(paused) - len(plain)) / 24_000 == pytest.approx(1.75, abs=0.02)
    assert longest_silence(paused) > 1.4


def test_too_long_pauses_are_refused(server: Server) -> None:
    refused = server.speak("One. [pause:20s] Two. [pause:15000ms] Three.")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    assert "35 s of silence" in refused.json()["error"]["message"]
    silent = server.speak("[pause:5s]").json()["error"]
    assert (silent["code"], silent["message"].endswith("Dropped: pauses")) == ("nothing_to_speak", True)


@pytest.mark.parametrize("mark", ["[pause:500]", "[pause:soon]", "[pause:99999999ms]", "[PAUSE:]"])
def test_pauses_that_cannot_be_read_are_refused(server: Server, mark: str) -> None:
    refused = server.speak(f"One. {mark} Two.").json()["error"]
    assert refused["message"] == f"'{mark}' can't be read; write [pause:500ms] or [pause:1.5s]"
    assert server.speak("One. [pause:.25s] Two.", seed=1).status_code == 200


def test_instructions_have_a_length(server: Server) -> None:
    refused = server.speak(instructions="happy " * 1000)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "instructions")


def test_a_clip_has_a_longest_length(server: Server) -> None:
    with configured(server, max_audio_seconds=3):
        refused = server.speak("A long sentence goes on and on, and then some more of it comes.", speed=0.5)
        assert refused.status_code == 400
        assert "longer than 3 s" in refused.json()["error"]["message"]
        assert server.speak("Short.").status_code == 200


def test_whole_clips_that_nobody_reads_count_as_open(server: Server) -> None:
    with configured(server, max_clips=2):
        body = {"input": "Long texts have slow readers. " * 130, "voice": "static", "model": "noise", "seed": 1}
        url = f"{server.url}/v1/audio/speech"
        with httpx.Client(timeout=60) as client, ExitStack() as readers:
            for _ in range(2):
                request = client.build_request("POST", url, json=body | {"response_format": "wav"})
                readers.callback(client.send(request, stream=True).close)
            assert server.speak("One more.").json()["error"]["code"] == "queue_full"
        wait_until(lambda: server.speak("One more.").status_code == 200)


def test_instructions_are_heard_and_logged(server: Server) -> None:
    plain = speech_of(server.speak(seed=1).content)
    slow = server.speak(seed=1, instructions="very slowly")
    assert "x-unused-parameters" not in slow.headers
    assert len(speech_of(slow.content)) > 1.2 * len(plain)
    other = server.speak(seed=1, instructions="with panache")
    assert other.headers["x-unused-parameters"] == "instructions"
    assert np.array_equal(speech_of(other.content), plain)


def test_captions_have_one_sentence_or_less() -> None:
    words = [
        TimedWord("Hello", 0.25, 0.6), TimedWord("there.", 0.7, 1.0), TimedWord("A", 1.1, 1.2),
        *(TimedWord("wordy" * 2, 1.3 + number, 1.9 + number) for number in range(5)), TimedWord("end", 3661.5, 3662.0),
    ]  # fmt: skip
    assert srt(lines_of(words)).split("\n\n") == [
        "1\n00:00:00,250 --> 00:00:01,000\nHello there.",
        "2\n00:00:01,100 --> 00:00:03,900\nA wordywordy wordywordy wordywordy",
        "3\n00:00:04,300 --> 00:00:05,900\nwordywordy wordywordy",
        "4\n01:01:01,500 --> 01:01:02,000\nend\n",
    ]


def test_say_writes_captions_that_fit_the_sound(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    out, captions = tmp_path / "out.wav", tmp_path / "out.srt"
    command = [sys.executable, "-m", "dia_server", "say", "--home", str(home), "Hello there. [pause:1s] It cost $5."]
    done = subprocess.run(
        [*command, "-o", str(out), "--srt", str(captions), "--seed", "1"], capture_output=True, text=True, check=True
    )
    assert "5 words" in done.stderr
    first, second = captions.read_text().strip().split("\n\n")
    assert first.endswith("Hello there.")
    assert second.endswith("It cost $5.")
    end = second.split("\n")[1].split(" --> ")[1]
    seconds = math.fsum(
        float(part) * unit for part, unit in zip(end.replace(",", ".").split(":"), (3600, 60, 1), strict=True)
    )
    assert seconds < len(speech_of(out.read_bytes())) / 24_000 < seconds + 0.5


def test_a_model_without_marks_makes_no_captions(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    command = [sys.executable, "-m", "dia_server", "say", "--home", str(home), "Hello.", "--model", "noise"]
    done = subprocess.run(
        [*command, "--voice", "static", "-o", str(tmp_path / "a.wav"), "--srt", str(tmp_path / "a.srt")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no captions" in done.stderr
    assert list(tmp_path.glob("a.*")) == []


def test_an_alias_of_a_missing_voice_is_named(tmp_path: Path, voices: VoiceStore) -> None:
    (tmp_path / "voices" / "raven.yaml").unlink()
    with pytest.raises(VoiceNotFound, match=r"Voice 'alloy' stands for 'raven' \(voice_aliases\), which is not there"):
        plan(voices, voice="alloy")


def test_a_recording_that_no_model_imitates_is_named(tmp_path: Path, voices: VoiceStore) -> None:
    write_voice(tmp_path, "ada", audio_prompt="ada")
    assert plan(voices, voice="ada", model="noise").unused == ("audio_prompt",)
    assert plan(voices).unused == ()


def test_what_does_nothing_by_itself_is_named(tmp_path: Path, voices: VoiceStore) -> None:
    def unused(voice: str = "skylark", delivery: Delivery | None = None, **parameters: object) -> tuple[str, ...]:
        return plan(voices, voice=voice, delivery=delivery, parameters=parameters).unused

    write_voice(tmp_path, "gloomy", style="sad")
    write_voice(tmp_path, "picky", models={"hibari": {"retry_badcase": True}})
    assert unused(use_random=True) == ("use_random",)
    assert unused(use_random=False) == ()
    assert unused("gloomy", use_random=True) == ()
    recording = Reference(path="a", sha256="0" * 64)
    assert unused(delivery=Delivery(emotion_reference=recording), use_random=True) == ()
    assert unused(denoise=True) == ("denoise",)
    assert plan(voices, voice="ada", recording=recording, parameters={"denoise": True}).unused == ()
    assert unused(retry_badcase_max_times=5) == ("retry_badcase_max_times",)
    assert unused(retry_badcase_max_times=5, retry_badcase=True) == ()
    assert unused("picky", retry_badcase_max_times=5) == ()
    assert unused("picky", retry_badcase_max_times=5, retry_badcase=False) == ("retry_badcase_max_times",)
