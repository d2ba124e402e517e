"""From logits to codes, every request by its own settings, as transformers does it (5.23, `logits_process.py`).

Guidance chooses the candidates: the ids with the highest guided logits. Which of them is taken is decided by the
conditional logits alone. The end of speech is never drawn: it comes when the first codebook's highest candidate is the
end id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dia_server.models.dia.noise import gumbel

# More ids than anybody draws from; `top_k` is at most so much.
MOST_CANDIDATES = 100


class Controls(NamedTuple):
    """How each slot's request is sampled; all (slots,).

    Attributes:
        guidance: scale of classifier-free guidance; 1 is none (Ho & Salimans 2022, arXiv 2207.12598, in the form
            cond + scale * (cond - uncond)).
        temperature: 0 takes the likeliest id.
        top_p: share of probability that is drawn from; the id that crosses it counts.
        top_k: number of candidates.
        seed: of the request.
        attempt: which try of it this is.
    """

    guidance: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    seed: Tensor
    attempt: Tensor

    @classmethod
    def empty(cls, slots: int, device: torch.device) -> Controls:
        """For slots without a request."""
        decimal, whole = torch.ones(slots, device=device), torch.ones(slots, dtype=torch.long, device=device)
        return cls(decimal, decimal.clone(), decimal.clone(), whole, whole.clone(), whole.clone())


class Candidates(NamedTuple):
    """What may be drawn; (slots, channels, `MOST_CANDIDATES`), by ascending id, so that the lower one wins a tie.

    Attributes:
        scores: conditional logits; -inf for what may not be drawn.
    """

    ids: Tensor
    scores: Tensor


# Draws from scores that temperature and top_p have shaped; the last argument is the frame within the request.
Draw = Callable[[Candidates, Controls, Tensor], Tensor]


def sample(
    conditional: Tensor, unconditional: Tensor, controls: Controls, frame: Tensor, end: int, draw: Draw
) -> tuple[Tensor, Tensor]:
    """A code for every channel, and whether speech ends here.

    Args:
        conditional: logits, (slots, channels, vocabulary), float32.
        unconditional: as `conditional`.
        controls: of each slot's request.
        frame: (slots,), row within the request that the codes are for.
        end: the id that ends speech; codes are below it.
        draw: decides where the temperature is above 0.

    Returns:
        Ids (slots, channels), and (slots,) of bool. A slot with logits that are not finite gets ids all the same.
    """
    candidates, ends = choose(conditional, unconditional, controls, end)
    shaped = shape(candidates, controls)
    likeliest = _taken(candidates.ids, candidates.scores)
    drawn = draw(shaped, controls, frame)
    return torch.where(controls.temperature[:, None] == 0, likeliest, drawn), ends


def choose(conditional: Tensor, unconditional: Tensor, controls: Controls, end: int) -> tuple[Candidates, Tensor]:
    """The candidates, and whether the end id beats them all in the first channel."""
    unguided = (controls.guidance == 1)[:, None, None]
    guided = conditional + controls.guidance[:, None, None] * (conditional - unconditional)
    is_code = torch.arange(conditional.shape[-1], device=conditional.device) < end
    ranking = torch.where(unguided, conditional.masked_fill(~is_code, -torch.inf), guided)
    ids = ranking.topk(MOST_CANDIDATES, sorted=True).indices
    beyond = torch.arange(MOST_CANDIDATES, device=ids.device) >= controls.top_k[:, None, None]
    ids, order = ids.sort(dim=-1)
    dropped = beyond.expand_as(ids).gather(-1, order)
    scores = conditional.gather(-1, ids).masked_fill(dropped | (ids >= end), -torch.inf)
    end_stays = unguided[:, 0, 0] | ((ids[:, 0] == end) & ~dropped[:, 0]).any(-1)
    return Candidates(ids, scores), end_stays & (conditional[:, 0, end] > scores[:, 0].amax(-1))


def shape(candidates: Candidates, controls: Controls) -> Candidates:
    """Scores divided by the temperature, without those that `top_p` leaves out."""
    scores = candidates.scores / controls.temperature.clamp_min(1e-6)[:, None, None]
    ascending, order = scores.sort(dim=-1)
    below = ascending.softmax(dim=-1).cumsum(dim=-1) <= (1 - controls.top_p)[:, None, None]
    below[..., -1] = False
    left_out = torch.zeros_like(below).scatter(-1, order, below)
    return Candidates(candidates.ids, scores.masked_fill(left_out, -torch.inf))


def draw_by_noise(candidates: Candidates, controls: Controls, frame: Tensor) -> Tensor:
    """Ids by the Gumbel-max trick: the argmax of scores plus Gumbel noise is distributed as their softmax."""
    noise = gumbel(controls.seed, controls.attempt, frame, candidates.ids)
    return _taken(candidates.ids, candidates.scores.double() + noise)


def _taken(ids: Tensor, scores: Tensor) -> Tensor:
    return ids.gather(-1, scores.argmax(dim=-1, keepdim=True)).squeeze(-1)
