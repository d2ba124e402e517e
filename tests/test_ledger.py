"""The ledger that makes a replay seamless, against the plain bytes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia_server.errors import ReplayMismatch
from dia_server.pool.clip import Ledger
from dia_server.tasks import Audio

SAMPLES = np.random.default_rng(1).standard_normal(100, dtype=np.float32)
cuts = st.lists(st.integers(0, 100), max_size=8)


def events(samples: np.ndarray, at: list[int]) -> list[Audio]:
    edges = sorted({0, len(samples), *(min(cut, len(samples)) for cut in at)})
    return [Audio(first, samples[first:last].tobytes()) for first, last in pairwise(edges)]


@given(attempts=st.lists(st.tuples(cuts, st.integers(0, 8)), max_size=4), last=cuts)
def test_replays_of_any_cut_pass_each_sample_once(attempts: list[tuple[list[int], int]], last: list[int]) -> None:
    ledger, heard = Ledger(), b""
    for at, died_after in attempts:
        for event in events(SAMPLES, at)[:died_after]:
            heard += ledger.accept(event)
        ledger.restart()
    for event in events(SAMPLES, last):
        heard += ledger.accept(event)
    ledger.finish(100)
    assert heard == SAMPLES.tobytes()


@given(known=st.integers(1, 100), changed=st.integers(0, 99), at=cuts)
def test_a_replay_that_differs_is_found_before_anything_new_passes(known: int, changed: int, at: list[int]) -> None:
    ledger = Ledger()
    ledger.accept(Audio(0, SAMPLES[:known].tobytes()))
    ledger.restart()
    replay = SAMPLES.copy()
    replay[changed] += 1
    if changed >= known:
        assert b"".join(ledger.accept(event) for event in events(replay, at)) == replay[known:].tobytes()
        return
    new = b""
    with pytest.raises(ReplayMismatch):
        for event in events(replay, at):
            new += ledger.accept(event)
    assert new == b""


@given(deaths=st.lists(st.integers(0, 6), max_size=5))
def test_replays_pass_each_of_the_marks_once(deaths: list[int]) -> None:
    ledger, heard = Ledger(), []
    for died_after in [*deaths, 6]:
        ledger.restart()
        heard += [number for number in range(died_after) if ledger.accept_marks()]
    assert heard == list(range(6))


def test_a_gap_and_a_shorter_replay_are_mismatches() -> None:
    ledger = Ledger()
    ledger.accept(Audio(0, SAMPLES[:50].tobytes()))
    with pytest.raises(ReplayMismatch):
        ledger.accept(Audio(60, SAMPLES[60:].tobytes()))
    ledger.restart()
    ledger.accept(Audio(0, SAMPLES[:40].tobytes()))
    with pytest.raises(ReplayMismatch):
        ledger.finish(40)
