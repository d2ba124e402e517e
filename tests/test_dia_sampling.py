"""What is drawn, and from what: the numbers are those of Random123, the odds those of the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from conftest import needs_dia

pytestmark = needs_dia
torch = pytest.importorskip("torch")

from dia_server.models.dia.noise import gumbel, philox  # noqa: E402
from dia_server.models.dia.sampling import Controls, draw_by_noise, sample  # noqa: E402

END = 110
IDS = 114


def words(text: str) -> tuple[Any, ...]:
    return tuple(torch.tensor([int(word, 16)]) for word in text.split())


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_random123_knows_these_numbers(counter: str, key: str, answer: str) -> None:
    assert philox(words(counter), words(key)) == words(answer)  # type: ignore[arg-type]


def numbers(*values: int) -> Any:
    return torch.tensor(values)


def test_each_number_has_a_stream_of_its_own() -> None:
    """Neighbours in seed, attempt and frame share nothing, whichever way they are neighbours."""
    wheres = [
        (seed, attempt, frame)
        for seed in (0, 1, 2, 2**32, 2**32 + 1, 2**63 - 1)
        for attempt in range(3)
        for frame in range(4)
    ]
    seeds, attempts, frames = (torch.tensor(each) for each in zip(*wheres, strict=True))
    ids = torch.arange(64).expand(len(wheres), 9, 64)
    noise = gumbel(seeds, attempts, frames, ids).reshape(-1, 64).numpy()
    assert len(np.unique(noise)) > 0.999 * noise.size, "32 bits of numbers meet by chance now and then"
    likeness = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(likeness).max() < 0.8
    assert abs(noise.mean() - np.euler_gamma) < 0.02


def test_a_number_is_the_same_among_whichever_candidates() -> None:
    ids = torch.tensor([[[3, 7, 50, 1023]]])
    alone = gumbel(numbers(5), numbers(1), numbers(9), ids[..., 2:3])
    assert gumbel(numbers(5), numbers(1), numbers(9), ids)[..., 2:3].equal(alone)


def controls(slots: int = 1, **changed: float) -> Controls:
    said = {"guidance": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": 100, "seed": 0, "attempt": 0} | changed
    found = {
        name: torch.full((slots,), value, dtype=torch.float if isinstance(value, float) else torch.long)
        for name, value in said.items()
    }
    return Controls(**found)


def logits(seed: int = 0, channels: int = 2) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (1, channels, IDS)).astype(np.float32))


def expected(scores: Any, temperature: float, top_p: float, top_k: int) -> Any:
    """The shares of the codes, counted in another way: the likeliest, until they make up `top_p`."""
    shares = np.full(IDS, 0.0)
    kept = np.argsort(-scores[:END])[:top_k]
    weights = np.exp((scores[kept] - scores[kept].max()) / temperature)
    weights /= weights.sum()
    before = np.cumsum(weights) - weights
    shares[kept] = np.where(before < top_p, weights, 0)
    return shares / shares.sum()


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(1.0, 1.0, 100), (0.6, 1.0, 45), (1.2, 0.95, 45), (1.8, 0.9, 50), (2.0, 0.5, 100), (1.3, 0.99, 5)],
)
def test_codes_are_drawn_as_often_as_their_softmax_says(temperature: float, top_p: float, top_k: int) -> None:
    draws = 6_000
    one = logits()
    one[..., END:] = -5
    many = one.expand(draws, -1, -1)
    settings = controls(draws, temperature=temperature, top_p=top_p, top_k=top_k)._replace(seed=torch.arange(draws))
    ids, _ = sample(many, many, settings, torch.zeros(draws, dtype=torch.long), END, draw_by_noise)
    for channel in range(2):
        shares = expected(one[0, channel].double().numpy(), temperature, top_p, top_k)
        counts = np.bincount(ids[:, channel], minlength=IDS)
        assert not counts[shares == 0].any()
        often = shares * draws >= 5
        bins = [(counts[often], shares[often] * draws)]
        if (shares[~often] > 0).any():
            bins.append((counts[~often].sum(keepdims=True), shares[~often].sum(keepdims=True) * draws))
        seen, hoped = (np.concatenate(each) for each in zip(*bins, strict=True))
        assert chisquare(seen, hoped).pvalue > 1e-3


def drawn(conditional: Any, unconditional: Any = None, **changed: float) -> tuple[list[int], bool]:
    unconditional = conditional if unconditional is None else unconditional
    ids, ends = sample(conditional, unconditional, controls(**changed), numbers(0), END, draw_by_noise)
    return ids[0].tolist(), bool(ends[0])


@pytest.mark.parametrize("never_random", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 1}])
def test_without_chance_the_likeliest_code_is_taken(never_random: dict[str, float]) -> None:
    scores = logits(1)
    best = scores[0, :, :END].argmax(-1).tolist()
    for seed in range(20):
        assert drawn(scores, seed=seed, **never_random)[0] == best


def test_of_equals_the_lower_id_is_taken() -> None:
    scores = logits(2)
    scores[0, 0, [90, 17, 41]] = 50
    assert drawn(scores, temperature=0.0)[0][0] == 17


def test_guidance_chooses_the_candidates_and_the_text_alone_decides() -> None:
    conditional, unconditional = torch.zeros(1, 2, IDS), torch.zeros(1, 2, IDS)
    conditional[..., :5] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    # What the network says without the text counts against it: 0 would win, and is no candidate.
    unconditional[..., 0] = 9.0
    assert drawn(conditional, unconditional, guidance=3.0, temperature=0.0, top_k=4)[0] == [1, 1]
    assert drawn(conditional, unconditional, guidance=1.0, temperature=0.0, top_k=4)[0] == [0, 0]


def test_only_the_first_channel_ends_and_only_by_its_highest_candidate() -> None:
    scores = logits(3)
    scores[0, 1, END] = 50
    ids, ends = drawn(scores)
    assert not ends
    assert ids[1] < END

    scores[0, 0, END] = scores[0, 0, :END].max()
    assert not drawn(scores)[1], "a code that is as likely comes first"
    scores[0, 0, END] += 0.1
    for seed in range(5):
        assert drawn(scores, seed=seed, temperature=2.0)[1], "the end is no matter of chance"
    scores[0, 0, END + 1] = 50
    assert drawn(scores)[1], "ids behind the end's mean nothing"


def test_an_end_that_guidance_leaves_out_does_not_come() -> None:
    conditional, unconditional = logits(4), logits(5)
    conditional[0, 0, END] = 20
    unconditional[0, 0, END] = 40
    assert not drawn(conditional, unconditional, guidance=3.0, top_k=45)[1]
    assert drawn(conditional, unconditional, guidance=1.0, top_k=45)[1]
