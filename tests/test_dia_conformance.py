"""The runtime says what transformers' own Dia says: code for code in float32, and as near as bfloat16 allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import needs_dia

pytestmark = needs_dia
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import DiaFeatureExtractor, DiaForConditionalGeneration, DiaProcessor, DiaTokenizer  # noqa: E402

from dia_server.models.dia import windows  # noqa: E402
from dia_server.models.dia.codec import Codec, load_codec  # noqa: E402
from dia_server.models.dia.delay import Codes, frames_of, given_rows  # noqa: E402
from dia_server.models.dia.runtime import Runtime  # noqa: E402
from dia_server.models.dia.sampling import Candidates, Controls  # noqa: E402
from dia_speech import begin, random_codes, reading, runtime_of, spoken, spoken_together  # noqa: E402
from tiny_dia import tiny_codec, tiny_model  # noqa: E402

FRAMES = 36
HOP = 512
# Ends its sentences where it likes: after 12 to 36 rows with some texts, not before the limit with others.
TEXTS = (
    "[S1] Hello there.",
    "[S1] Hi \u00e9 [S2] yo.",
    "x",
    "[S2] \u4f60\u597d, \U0001f600! (laughs)",
    "[S1] Nobody seemed to mind that it was late. [S2] Well, (sighs) who would?",
)
PROMPTS = (0, 5, 20)


class Reference:
    """transformers' Dia with its processor."""

    def __init__(self, model: DiaForConditionalGeneration) -> None:
        self.model = model
        features = DiaFeatureExtractor(sampling_rate=44_100, hop_length=HOP)
        self.processor = DiaProcessor(features, DiaTokenizer(), tiny_codec())

    def inputs(self, texts: list[str], waves: list[Any] | None = None) -> Any:
        return self.processor(
            text=texts, audio=waves, padding="longest", max_length=None, return_tensors="pt", sampling_rate=44_100
        )

    def codes(self, wave: Any) -> Codes:
        """As the processor gives them to the model."""
        inputs = self.inputs(["x"], [wave])
        rows = inputs["decoder_input_ids"][0].numpy()
        return frames_of(rows[1:], self.architecture)

    def rows(self, texts: list[str], waves: list[Any] | None = None, frames: int = FRAMES, **options: Any) -> Codes:
        """All that is generated, (texts, rows, channels)."""
        options = {"do_sample": False, "top_k": 45, "guidance_scale": 3.0} | options
        inputs = self.inputs(texts, waves)
        given = inputs["decoder_attention_mask"].shape[1] - 15
        with torch.no_grad():
            rows = self.model.generate(**inputs, max_new_tokens=frames + 16, **options)
        found: Codes = rows[:, given:].numpy()
        return found

    architecture: Any = None


@pytest.fixture(scope="module")
def runtime(tiny_dia: tuple[Path, Path]) -> Runtime:
    return runtime_of(tiny_dia[0], 5)


@pytest.fixture(scope="module")
def reference(runtime: Runtime) -> Reference:
    found = Reference(tiny_model())
    found.architecture = runtime.architecture
    return found


def wave(frames: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(HOP * frames).astype(np.float32) * np.float32(0.1)


def waves(frames: int) -> list[Any] | None:
    return [wave(frames)] if frames else None


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("text", TEXTS)
def test_greedy_codes_are_those_of_transformers(
    runtime: Runtime, reference: Reference, text: str, guidance: float, prompt: int
) -> None:
    known = reference.codes(wave(prompt)) if prompt else None
    ours = spoken(runtime, reading(text, known, FRAMES, guidance=guidance, temperature=0), slot=1)
    assert np.array_equal(ours, reference.rows([text], waves(prompt), guidance_scale=guidance)[0])


@pytest.mark.parametrize(
    ("text", "guidance", "top_k", "prompt"),
    [
        (TEXTS[0], 2.0, 45, 0),
        (TEXTS[1], 5.0, 45, 20),
        (TEXTS[2], 3.0, 5, 0),
        (TEXTS[3], 3.0, 100, 5),
        (TEXTS[0], 3.0, 45, 270),
        ("[S1]", 3.0, 45, 0),
        ("[S2] " + "\u00e9 noon" * 146, 3.0, 45, 0),
        ("a" * 1024, 2.0, 50, 5),
    ],
    ids=["mild", "strong", "few", "many", "a page of prompt", "one byte", "1,024 bytes", "1,024 bytes and a prompt"],
)
def test_greedy_codes_at_the_bounds(
    runtime: Runtime, reference: Reference, text: str, guidance: float, top_k: int, prompt: int
) -> None:
    known = reference.codes(wave(prompt)) if prompt else None
    ours = spoken(runtime, reading(text, known, FRAMES, guidance=guidance, top_k=top_k, temperature=0))
    theirs = reference.rows([text], waves(prompt), guidance_scale=guidance, top_k=top_k)
    assert np.array_equal(ours, theirs[0])


@pytest.mark.parametrize("prompts", [(0, 0, 0, 0, 0), (3, 30, 16, 1, 8)], ids=["no prompts", "ragged prompts"])
def test_a_ragged_batch_says_what_its_texts_say_alone(
    runtime: Runtime, reference: Reference, prompts: tuple[int, ...]
) -> None:
    recordings = [wave(frames, seed) for seed, frames in enumerate(prompts)]
    known = [reference.codes(each) if len(each) else None for each in recordings]
    theirs = reference.rows(list(TEXTS), recordings if any(prompts) else None)
    readings = [reading(text, each, FRAMES, temperature=0) for text, each in zip(TEXTS, known, strict=True)]
    ours = spoken_together(runtime, readings)
    for slot, rows in ours.items():
        assert np.array_equal(rows, theirs[slot][: len(rows)])
        assert (theirs[slot][len(rows) :] == 1025).all()
    assert len({len(rows) for rows in ours.values()}) >= 3, "they should end at different steps"


def endless() -> DiaForConditionalGeneration:
    """It speaks to the limit: the end's logit is never the highest."""
    model = tiny_model(7)
    with torch.no_grad():
        model.logits_dense.weight[1024] = 0
    return model


@pytest.fixture(scope="module")
def endless_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endless")
    endless().save_pretrained(folder)
    return folder


def test_beyond_a_page_of_keys(endless_folder: Path) -> None:
    theirs = Reference(endless()).rows(["[S1] On and on."], frames=290)[0]
    ours = spoken(runtime_of(endless_folder, 2), reading("[S1] On and on.", None, 290, temperature=0), slot=1)
    assert len(ours) == 306
    assert np.array_equal(ours, theirs)
    assert len(np.unique(ours)) > 300, "a network that repeats itself shows little"


def multinomial(candidates: Candidates, _controls: Controls, _frame: Any) -> Any:
    """As `_sample` of transformers draws, from all 1,028 ids."""
    slots, channels, _ = candidates.ids.shape
    scores = torch.full((slots, channels, 1028), -torch.inf).scatter(-1, candidates.ids, candidates.scores)
    return torch.multinomial(scores.softmax(-1).view(-1, 1028), 1).view(slots, channels)


@pytest.fixture(scope="module")
def dicing(tiny_dia: tuple[Path, Path]) -> Iterator[Runtime]:
    """Draws from torch's global generator, so that the codes depend on its state."""
    with torch.random.fork_rng():
        yield runtime_of(tiny_dia[0], 1, draw=multinomial)


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "guidance", "prompt"),
    [
        (1.0, 1.0, 45, 3.0, 0),
        (1.2, 0.95, 45, 3.0, 20),
        (1.8, 0.9, 50, 3.0, 0),
        (1.8, 0.95, 45, 1.0, 20),
        (1.2, 0.9, 50, 1.0, 0),
        (1.0, 0.95, 50, 2.0, 5),
    ],
)
def test_sampled_codes_are_those_of_transformers_with_its_dice(
    dicing: Runtime, reference: Reference, temperature: float, top_p: float, top_k: int, guidance: float, prompt: int
) -> None:
    known = reference.codes(wave(prompt)) if prompt else None
    said = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    torch.manual_seed(11)
    theirs = reference.rows([TEXTS[0]], waves(prompt), do_sample=True, guidance_scale=guidance, **said)[0]
    torch.manual_seed(11)
    ours = spoken(dicing, reading(TEXTS[0], known, FRAMES, guidance=guidance, **said))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("prompt", [0, 20])
def test_windows_sound_as_transformers_decodes_the_whole(
    runtime: Runtime, reference: Reference, codec: Codec, prompt: int
) -> None:
    text = TEXTS[0]
    inputs = reference.inputs([text], waves(prompt))
    with torch.no_grad():
        rows = reference.model.generate(
            **inputs, do_sample=False, top_k=45, guidance_scale=1.0, max_new_tokens=FRAMES + 16
        )
    length = reference.processor.get_audio_prompt_len(inputs["decoder_attention_mask"]) if prompt else None
    theirs = reference.processor.batch_decode(rows, audio_prompt_len=length)[0].numpy()
    codes = frames_of(rows[0, prompt + 1 : -1].numpy(), runtime.architecture)
    grid = list(windows.ready(0, len(codes), whole=True))
    pieces = codec.decode([codes[window.left : window.right] for window in grid])
    heard = [
        piece[(window.start - window.left) * HOP : (window.end - window.left) * HOP]
        for window, piece in zip(grid, pieces, strict=True)
    ]
    assert len(grid) > 3
    # Of the loudest sample, since so small a codec is quiet.
    assert np.abs(np.concatenate(heard) - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("ratios", [(2, 4, 8, 8), (3, 5)], ids=["Dia's", "odd"])
def test_the_codec_is_that_of_transformers_to_the_last_bit(tmp_path: Path, ratios: tuple[int, ...]) -> None:
    theirs = tiny_codec(downsampling_ratios=ratios)
    theirs.save_pretrained(tmp_path)
    ours = load_codec(tmp_path, torch.device("cpu"))
    codes = random_codes(30)
    samples = wave(20)[: -(HOP * 20 % ours.hop_length) or None]
    with torch.no_grad():
        decoded = theirs.decode(audio_codes=torch.from_numpy(codes).T[None]).audio_values[0].numpy()
        encoded = theirs.encode(torch.from_numpy(samples)[None, None]).audio_codes[0].T.numpy()
    assert np.array_equal(ours.decode([codes])[0], decoded)
    assert np.array_equal(ours.encode(samples), encoded)
    assert len(np.unique(encoded)) > 100, "a codec with few codes shows little"


def test_in_bfloat16_logits_are_as_right_as_those_of_transformers(endless_folder: Path, reference: Reference) -> None:
    """Codes can't be compared, since roundings differ by the order of operations, and one other code changes all.

    So both are given the same rows, and measured by how far their logits are from those in float32, as root mean
    squares: ours by no more than a tenth farther than those of transformers with its eager attention, which rounds as
    often as ours.
    """
    text, codes = TEXTS[4], random_codes(60)
    rows = given_rows(codes, reference.architecture)[:61]
    text_ids = reference.inputs([text])["input_ids"]
    seen: list[Candidates] = []

    def look(candidates: Candidates, _controls: Controls, _frame: Any) -> Any:
        seen.append(candidates)
        return candidates.ids[..., 0]

    runtime = runtime_of(endless_folder, 1, torch.bfloat16, draw=look)
    begin(runtime, 0, reading(text, None, 100, guidance=1, temperature=1, top_p=1, top_k=100))
    runtime.slots.codes[0, : len(rows)] = torch.from_numpy(rows)
    for _ in rows:
        runtime.step()
    ids = torch.cat([candidates.ids for candidates in seen])
    ours = torch.cat([candidates.scores for candidates in seen])

    def theirs(dtype: Any) -> Any:
        model = endless().to(dtype)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            logits = model(input_ids=text_ids, decoder_input_ids=torch.from_numpy(rows)[None]).logits
        return logits.float().transpose(0, 1).gather(-1, ids)

    exact, rounded = theirs(torch.float32), theirs(torch.bfloat16)
    counts = torch.isfinite(ours)

    def distance(one: Any, other: Any) -> float:
        return float((one - other)[counts].square().mean().sqrt())

    assert counts.float().mean() > 0.9
    assert distance(ours, exact) < 1.1 * distance(rounded, exact)
    assert distance(ours, exact) < 0.5 * float(exact[counts].std())
