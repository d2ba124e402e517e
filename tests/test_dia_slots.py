"""A request's codes are its own: whichever slot it has, whoever is in the others, whenever and wherever it runs."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import needs_dia

pytestmark = needs_dia
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dia_server.models.dia import graph  # noqa: E402
from dia_server.models.dia.delay import Codes  # noqa: E402
from dia_server.models.dia.layers import PAGE, behind, paged_attention  # noqa: E402
from dia_server.models.dia.runtime import Reading, Run, Runtime  # noqa: E402
from dia_speech import LAST_DELAY, begin, random_codes, reading, rows_until_end, runtime_of, spoken  # noqa: E402

SLOTS = 8
SOMEBODY = reading("[S1] Hello there. [S2] Good evening!", None, 28, seed=2**63 - 5, temperature=1.3)
WITH_PROMPT = reading("[S1] Hello there. [S2] Good evening!", random_codes(30), 28, seed=7)
DTYPES = ("float32", "bfloat16")


def runtime_with(folder: Path, dtype: str, slots: int = SLOTS) -> Runtime:
    return runtime_of(folder, slots, getattr(torch, dtype))


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def runtime(tiny_dia: tuple[Path, Path], dtype: str) -> Runtime:
    return runtime_with(tiny_dia[0], dtype)


@pytest.fixture(scope="module")
def alone(runtime: Runtime) -> dict[Any, Codes]:
    """What each of the two says with nobody beside it, in the first slot."""
    return {name: spoken(runtime, each) for name, each in (("plain", SOMEBODY), ("prompt", WITH_PROMPT))}


def stranger(dice: random.Random) -> Reading:
    """Somebody else, whose caches reach as far as they like."""
    text = "".join(dice.choices("abc def, gh. (laughs)", k=dice.randrange(1, 300)))
    prompt = random_codes(dice.choice([0, 0, 12, 130, 520]), dice.randrange(1_000))
    controls = {"guidance": dice.choice([1.0, 3.0]), "temperature": dice.choice([0.0, 1.2, 1.9])}
    return reading(f"[S1] {text}", prompt, dice.randrange(1, 60), seed=dice.randrange(2**63), **controls)


def spoken_among_others(runtime: Runtime, mine: Reading, slot: int, seed: int) -> Codes:
    """As `spoken`, while tenants of all other slots come and go, one of them before and one in the same step."""
    dice = random.Random(seed)
    others = {each: begin(runtime, each, stranger(dice)) for each in range(SLOTS) if each != slot}
    for _ in range(dice.randrange(20)):
        runtime.step()
    run = begin(runtime, slot, mine)
    rows: list[Codes] = []
    while True:
        outcome = runtime.step()
        assert outcome is not None
        rows.append(outcome.codes[slot])
        for each, other in others.items():
            has_ended = outcome.since[each] == LAST_DELAY or dice.random() < 0.05
            if has_ended:
                runtime.stop(other)
                others[each] = begin(runtime, each, stranger(dice))
        if outcome.since[slot] == LAST_DELAY:
            break
    for other in (run, *others.values()):
        runtime.stop(other)
    return np.array(rows)


@pytest.mark.parametrize(("name", "slot", "seed"), [("plain", 5, 1), ("plain", 0, 2), ("prompt", 7, 3)])
def test_others_change_nothing(runtime: Runtime, alone: dict[str, Codes], name: str, slot: int, seed: int) -> None:
    mine = {"plain": SOMEBODY, "prompt": WITH_PROMPT}[name]
    assert np.array_equal(spoken_among_others(runtime, mine, slot, seed), alone[name])


def test_another_slot_changes_nothing(runtime: Runtime, alone: dict[str, Codes]) -> None:
    for slot in range(1, SLOTS):
        assert np.array_equal(spoken(runtime, SOMEBODY, slot), alone["plain"])
    assert len(np.unique(alone["plain"])) > 150, "a network that repeats itself shows little"


def test_a_new_runtime_changes_nothing(tiny_dia: tuple[Path, Path], dtype: str, alone: dict[str, Codes]) -> None:
    anew = runtime_with(tiny_dia[0], dtype)
    assert np.array_equal(spoken(anew, WITH_PROMPT, 4), alone["prompt"])


# It compiles for half a minute; CI runs it besides.
@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the processor with g++, and there is none")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler has some of its own
def test_a_compiled_step_keeps_all_that(tiny_dia: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    # Else it first compiles a program for each instruction set, to see whether g++ knows it.
    monkeypatch.setattr(config.cpp, "vec_isa_ok", True)
    compiled = runtime_of(tiny_dia[0], SLOTS, is_compiled=True)
    here = spoken(compiled, SOMEBODY)
    assert np.array_equal(spoken_among_others(compiled, SOMEBODY, slot=5, seed=1), here)


def digest(codes: Codes) -> str:
    return hashlib.sha256(np.ascontiguousarray(codes).tobytes()).hexdigest()


def told_apart(folder: Path, threads: int) -> str:
    """A line with the digests of both dtypes' codes, alone and among others."""
    torch.set_num_threads(threads)
    mine = SOMEBODY._replace(most_frames=12)
    found = []
    for dtype in DTYPES:
        runtime = runtime_with(folder, dtype)
        found += [digest(spoken(runtime, mine, 2)), digest(spoken_among_others(runtime, mine, 6, 5))]
    return " ".join(found)


def told_apart_elsewhere(folder: Path, threads: int) -> str:
    program = (
        "import pathlib, sys; sys.path.insert(0, sys.argv[1]); import test_dia_slots as here; "
        "print(here.told_apart(pathlib.Path(sys.argv[2]), int(sys.argv[3])))"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(folder), str(threads)]
    # Threads that wait by spinning take the processor from those that they wait for.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("threads", [1, 2])
def test_another_process_changes_nothing(tiny_dia: tuple[Path, Path], threads: int) -> None:
    """With as many threads; and with either number, company changes nothing."""
    there = told_apart_elsewhere(tiny_dia[0], threads)
    here = told_apart(tiny_dia[0], 1) if threads == 1 else told_apart_elsewhere(tiny_dia[0], threads)
    assert there == here
    exact, exact_with_others, rounded, rounded_with_others = here.split()
    assert (exact, rounded) == (exact_with_others, rounded_with_others)


def test_each_attempt_says_something_else_and_the_first_the_same_again(
    runtime: Runtime, alone: dict[str, Codes]
) -> None:
    first = rows_until_end(runtime, [begin(runtime, 3, WITH_PROMPT)])[3]
    second = rows_until_end(runtime, [runtime.start(3, WITH_PROMPT, attempt=1)])[3]
    again = rows_until_end(runtime, [runtime.start(3, WITH_PROMPT, attempt=0)])[3]
    second_elsewhere = spoken(runtime, WITH_PROMPT, slot=0, attempt=1)
    assert np.array_equal(first, alone["prompt"])
    assert np.array_equal(again, first)
    assert not np.array_equal(second[:20], first[:20])
    assert np.array_equal(second, second_elsewhere)


def test_graphs_keep_the_step_whose_tensors_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # There are none but on a GPU; what they read elsewhere is memory of others.
    for name in ("Stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(graph, "_captured", lambda *_: None)

    class Decoder:
        def step(self, pages: int, text_pages: int) -> None: ...

    decoder = Decoder()
    kept = weakref.ref(decoder)
    graphs = graph.Graphs(decoder.step, [1], [1])
    del decoder
    gc.collect()
    assert kept() is not None
    del graphs
    assert kept() is None


def poison_keys(runtime: Runtime, slot: int) -> None:
    runtime.slots.keys[0][0, slot, :, 0] = torch.nan


def poison_values(runtime: Runtime, slot: int) -> None:
    runtime.slots.values[1][0, SLOTS + slot, :, 0] = torch.inf


def poison_text(runtime: Runtime, slot: int) -> None:
    runtime.slots.text_values[1][0, slot, :, 0] = torch.nan


@pytest.mark.parametrize("poison", [poison_keys, poison_values, poison_text])
def test_numbers_that_are_not_finite_end_their_own_slot_alone(
    runtime: Runtime, alone: dict[str, Codes], poison: Callable[[Runtime, int], None]
) -> None:
    mine: Run = begin(runtime, 2, SOMEBODY)
    ill = begin(runtime, 4, WITH_PROMPT)
    rows = []
    for number in range(100):
        if number == 10:
            poison(runtime, 4)
        outcome = runtime.step()
        assert outcome is not None
        assert outcome.broken.tolist() == [slot == 4 and number == 10 for slot in range(SLOTS)]
        rows.append(outcome.codes[2])
        if outcome.broken[4]:
            runtime.stop(ill)
        if outcome.since[2] == LAST_DELAY:
            break
    runtime.stop(mine)
    assert np.array_equal(np.array(rows), alone["plain"])
    assert np.array_equal(spoken(runtime, SOMEBODY, slot=4), alone["plain"])


def test_what_broke_unseen_is_forgotten_too(runtime: Runtime, alone: dict[str, Codes]) -> None:
    # Its task was cancelled while the step was on its way.
    ill = begin(runtime, 4, WITH_PROMPT)
    poison_values(runtime, 4)
    runtime.step()
    runtime.stop(ill)
    assert np.array_equal(spoken(runtime, SOMEBODY, slot=4), alone["plain"])


def test_what_is_half_prepared_leaves_nothing(runtime: Runtime, alone: dict[str, Codes]) -> None:
    work = runtime.fill(4, WITH_PROMPT)
    next(work)
    work.close()
    poison_values(runtime, 4)
    assert np.array_equal(spoken(runtime, SOMEBODY, slot=4), alone["plain"])


@pytest.mark.parametrize("reach", DTYPES)
def test_attention_has_the_same_bits_over_any_number_of_pages(reach: str) -> None:
    kind = getattr(torch, reach)
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Any:
        return torch.randn(shape, generator=generator).to(kind)

    rows, heads, group, dim, most = 6, 2, 2, 16, 12
    lengths = torch.tensor([1, 2, 255, 256, 130, 17])
    queries = normal(rows, heads, group, dim) * 3
    keys, values = normal(most, rows, heads, PAGE, dim), normal(most, rows, heads, PAGE, dim) * 1e3
    one = paged_attention(queries, keys[:1], values[:1], behind(lengths, 1, PAGE))
    for pages in range(2, most + 1):
        assert paged_attention(queries, keys[:pages], values[:pages], behind(lengths, pages, PAGE)).equal(one)

    places = torch.arange(PAGE)[None] >= lengths[:, None]
    mask = torch.zeros(rows, 1, 1, PAGE).masked_fill(places[:, None, None], -torch.inf)
    whole = torch.nn.functional.scaled_dot_product_attention(
        queries.float(), keys[0].float(), values[0].float(), attn_mask=mask, scale=1.0
    )
    assert torch.allclose(
        one.float(), whole, rtol=0.02 if kind is torch.bfloat16 else 1e-4, atol=30 if kind is torch.bfloat16 else 1e-2
    )


def test_attention_to_keys_on_several_pages_is_that_to_all_at_once() -> None:
    generator = torch.Generator().manual_seed(2)
    rows, dim, pages = 3, 16, 4
    lengths = torch.tensor([300, 1000, 513])
    queries = torch.randn((rows, 1, 2, dim), generator=generator)
    keys, values = torch.randn((2, pages, rows, 1, PAGE, dim), generator=generator)
    found = paged_attention(queries, keys, values, behind(lengths, pages, PAGE))
    for row, length in enumerate(lengths):
        line, said = (each[:, row, 0].reshape(-1, dim)[:length] for each in (keys, values))
        assert torch.allclose(found[row, 0], (queries[row, 0] @ line.T).softmax(-1) @ said, atol=1e-5)
