"""Which emotion a text tells of: by words, and by a classifier from the hub where the settings name one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import needs_dia
from dia_server.errors import ModelUnavailable, SettingsError
from dia_server.models import registry
from dia_server.models.emotions import EmotionsSetup
from dia_server.models.protocol import Manifest
from dia_server.pool.choice import Choice
from dia_server.pool.pool import running_pool
from dia_server.report import check
from dia_server.script.emotions import CALM, classify
from dia_server.script.instructions import VOCABULARY
from dia_server.services.emotions import Emotions
from dia_server.services.model_names import check_models
from dia_server.settings import Lane, Settings
from dia_server.tasks import EMOTIONS, Classify, Done
from hub import COMMIT, running_hub

SENTENCES = yaml.safe_load((Path(__file__).parent / "data" / "feelings.yaml").read_text(encoding="utf-8"))


def strongest(text: str) -> str:
    weights = classify(text)
    return EMOTIONS[weights.index(max(weights))]


def weight(text: str, emotion: str) -> float:
    return classify(text)[EMOTIONS.index(emotion)]


@pytest.mark.parametrize("part", ["seen", "kept"])
def test_the_page_says_how_many_sentences_are_told_rightly(part: str) -> None:
    pairs = [(emotion, sentence) for emotion, all_ in SENTENCES[part].items() for sentence in all_]
    right = sum(strongest(sentence) == emotion for emotion, sentence in pairs)
    page = (Path(__file__).parents[1] / "docs" / "directing.md").read_text(encoding="utf-8")
    assert f"{right} of the {len(pairs)}" in page


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_directions_words_mean_the_same_in_texts(emotion: str) -> None:
    for word in VOCABULARY[emotion]:
        assert strongest(f"He was {word} that day.") == emotion, word


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("The train leaves at nine.", CALM),
        ("", CALM),
        ("\U0001f642", CALM),
        ("He was happy.", (0.7, 0, 0, 0, 0, 0, 0, 0)),
        ("He was very happy.", (0.98, 0, 0, 0, 0, 0, 0, 0)),
        ("He was \u0131ncredibly happy.", (0.7, 0, 0, 0, 0, 0, 0, 0)),
        ("He was a bit happy.", (0.35, 0, 0, 0, 0, 0, 0, 0)),
        ("He was happy!", (0.84, 0, 0, 0, 0, 0, 0, 0)),
        ("He was HAPPY.", (0.98, 0, 0, 0, 0, 0, 0, 0)),
        ("HE WAS HAPPY.", (0.7, 0, 0, 0, 0, 0, 0, 0)),
        ("He was not happy.", (0, 0, 0.35, 0, 0, 0, 0, 0)),
        ("He wasn\u2019t at all angry.", CALM),
        ("He couldn't be happier, and never so cheerful.", (1, 0, 0, 0, 0, 0, 0, 0)),
        ("He was angry, scared and sad.", (0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0)),
        ("I was scared, but now I am glad.", (0.7, 0, 0, 0.175, 0, 0, 0, 0)),
        ("Such sorrow, and I am so depressed.", (0, 0, 0, 0, 0, 1, 0, 0)),
    ],
)
def test_what_a_text_tells_of(text: str, weights: tuple[float, ...]) -> None:
    assert classify(text) == pytest.approx(weights)


def test_where_words_disagree_the_tone_of_the_whole_decides() -> None:
    bright = "I cried at the wedding, it was such a wonderful, beautiful, perfect day."
    dark = "They laughed at the funeral, and it was a horrible, ugly, terrible day."
    assert weight(bright, "happy") > weight(bright, "sad") > 0
    assert weight(dark, "sad") > weight(dark, "happy") > 0


@pytest.mark.parametrize(
    ("text", "emotion"),
    [
        ("\u6211\u5f88\u9ad8\u5174\u89c1\u5230\u4f60\uff01", "happy"),
        ("\u4ed6\u4e0d\u9ad8\u5174\u3002", "sad"),
        ("\u6211\u5bb3\u6015\u9ed1\u6697\u3002", "afraid"),
        ("\u5929\u54ea\uff0c\u6ca1\u60f3\u5230\u662f\u4f60\u3002", "surprised"),
        ("\u4ed6\u5f88\u60b2\u4f24\uff0c\u5f88\u4f4e\u843d\u3002", "melancholic"),
        ("Estou muito feliz no jardim!", "happy"),
        ("N\u00e3o estou com raiva.", "calm"),
        ("Ela chorou a noite toda.", "sad"),
        ("Que nojo, a comida est\u00e1 podre!", "disgusted"),
    ],
)
def test_some_words_of_chinese_and_portuguese_are_known(text: str, emotion: str) -> None:
    assert strongest(text) == emotion


@pytest.mark.parametrize("text", ["not very " * 5_000, "a" * 50_000, "happy, " * 5_000, "but " * 10_000, "!" * 50_000])
def test_any_text_has_weights_of_one_at_most(text: str) -> None:
    assert 0 < sum(classify(text)) <= 1 + 1e-9


# The classifier.


@pytest.fixture(scope="module")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of a few thousand random weights, with a vocabulary of its own, as transformers writes it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("classifier")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "a", "day", "rain", "again"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        initializer_range=1.0,
        id2label=dict(enumerate(("joy", "Anger", "sadness", "neutral", "bliss"))),
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def probabilities(folder: Path, text: str) -> list[float]:
    """By transformers' own pipeline."""
    import transformers

    (told,) = transformers.pipeline("text-classification", model=str(folder), top_k=None)([text])
    shares = {each["label"]: each["score"] for each in told}
    return [shares[label] for label in ("joy", "Anger", "sadness", "neutral", "bliss")]


def answer(folder: Path, text: str, **setup: Any) -> list[float]:
    engine = registry.load_engine("emotions", 1, {"source": str(folder), **setup})
    engine.admit(1, Classify(model="emotions", text=text))
    ((_, event),) = engine.step()
    assert isinstance(event, Done)
    return event.value


@needs_dia
def test_a_classifiers_labels_become_our_eight(tiny_classifier: Path) -> None:
    joy, anger, sadness, neutral, bliss = probabilities(tiny_classifier, "What a day")
    heard = answer(tiny_classifier, "What a day")
    assert heard == pytest.approx([joy, anger, sadness, 0, 0, 0, 0, neutral], abs=1e-5)
    told = answer(tiny_classifier, "What a day", labels={"Bliss": "happy", "sadness": "melancholic", "joy": None})
    assert told == pytest.approx([bliss, anger, 0, 0, 0, sadness, 0, neutral], abs=1e-5)


@needs_dia
def test_any_length_of_text_can_be_classified(tiny_classifier: Path) -> None:
    assert sum(answer(tiny_classifier, "rain again " * 5000)) <= 1 + 1e-9
    assert sum(answer(tiny_classifier, "")) <= 1 + 1e-9


@needs_dia
def test_where_several_labels_may_hold_each_has_a_probability_of_its_own(tiny_classifier: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    shutil.copytree(tiny_classifier, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    joy, anger, sadness, neutral, _ = probabilities(folder, "rain again")
    total = max(1.0, joy + anger + sadness + neutral)
    expected = [share / total for share in (joy, anger, sadness, 0, 0, 0, 0, neutral)]
    assert answer(folder, "rain again") == pytest.approx(expected, abs=1e-5)


@needs_dia
def test_what_is_no_classifier_of_emotions_is_refused_in_words(tiny_classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"say which do by `labels` under `models: emotions:`"):
        answer(tiny_classifier, "rain", labels=dict.fromkeys(("joy", "anger", "sadness", "neutral"), None))
    with pytest.raises(ModelUnavailable, match=r"there is no usable classifier in .*models pull emotions"):
        answer(tmp_path, "rain")


def test_a_label_may_stand_for_any_of_the_eight_and_no_other() -> None:
    for emotion in EMOTIONS:
        assert registry.setup_of("emotions", {"emotions": {"labels": {"x": emotion}}})
    with pytest.raises(SettingsError, match="Invalid enum value 'bored'"):
        registry.setup_of("emotions", {"emotions": {"labels": {"x": "bored"}}})


def test_a_model_that_tells_no_emotions_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="emotion_model: model 'hibari' is not installed; installed are emotions"):
        check_models(Settings(emotion_model="hibari"))


async def told_by_pool(settings: Settings, text: str) -> tuple[float, ...]:
    async with running_pool(settings) as pool:
        return await Emotions(settings, pool).of_text(text)


def pooled(**setup: Any) -> Settings:
    lanes = {"tools": Lane(models=("emotions",), idle_timeout=60.0)}
    return Settings(lanes=lanes, emotion_model="emotions", models={"emotions": setup}, gpu_mode="cpu")


async def test_without_a_model_the_words_tell() -> None:
    assert await told_by_pool(Settings(lanes={"speech": Lane(models=("noise",))}), "So happy!") == classify("So happy!")


@needs_dia
async def test_the_settings_model_tells_in_its_lane(tiny_classifier: Path) -> None:
    told = await told_by_pool(pooled(source=str(tiny_classifier)), "What a day")
    assert told == pytest.approx(answer(tiny_classifier, "What a day"), abs=1e-4)


@needs_dia
def test_where_the_weights_are_missing_the_next_step_is_named() -> None:
    with pytest.raises(ModelUnavailable, match=r"\(nobody/nothing\) are not here; .*`dia-server models pull emotions`"):
        registry.load_engine("emotions", 1, {"source": "nobody/nothing"})


@needs_dia
@pytest.mark.parametrize(("model", "sign"), [(None, "ok"), ("emotions", "!!")])
def test_the_doctor_misses_the_weights_of_a_model_that_is_chosen(
    model: str | None, sign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(emotion_model=model, models={"emotions": {"source": "nobody/nothing"}}, gpu_mode="cpu", port=0)
    check(settings, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert sign in next(line for line in lines if "model emotions" in line)


@needs_dia
def test_pull_fetches_what_it_takes_to_classify(tiny_classifier: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dia_server", "models", "pull", "emotions", "--home", str(tmp_path)]
    with running_hub({EmotionsSetup().source: tiny_classifier}) as hub:
        variables = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "COLUMNS": "500"}
        pulled = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
        asked = {path.rpartition("/")[2] for path in hub.asked}
    assert pulled.returncode == 0, pulled.stderr
    fetched = next((tmp_path / "cache").glob(f"**/snapshots/{COMMIT}"))
    assert asked == {path.name for path in fetched.iterdir()} == {path.name for path in tiny_classifier.iterdir()}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["models"]["emotions"] == {"revision": COMMIT}


def test_the_lane_of_the_tools_runs_it() -> None:
    assert Settings().lane_of("emotions") == "tools"


def test_a_lane_that_starts_on_need_begins_with_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Manifest, "missing_packages", lambda self: ["whisper"] if self.name == "whisper" else [])
    settings = Settings(models={"emotions": {"source": str(tmp_path)}})
    assert Choice("hibari").arranged(settings.lanes["tools"], settings).models == ("emotions", "whisper")


async def test_where_the_packages_are_missing_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Manifest, "missing_packages", lambda self: ["torch"] if self.name == "emotions" else [])
    with pytest.raises(ModelUnavailable, match=r"pip install 'dia-server\[emotions\]'"):
        await told_by_pool(pooled(), "What a day")
