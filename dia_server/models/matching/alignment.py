"""Which frames of two recordings say the same."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dia_server.models.matching.analysis import Floats

# Added to the cost of a step in which one of the two stands still.
STANDING_COST = 0.15


class Pairs(NamedTuple):
    """Frames that belong together, both of shape (pairs,)."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]


def align(first: Floats, second: Floats, *, is_second_cut: bool = False) -> Pairs:
    """Dynamic time warping of two that say the same in the same order, by features of shape (frames, features).

    Time and memory grow with the product of the lengths: 30 s by 30 s take 50 MB and a second.

    Args:
        first: from its start; to its end, unless
        second: was cut short: then as much of `first` counts as fits best.
        is_second_cut: whether it was.
    """
    distances = np.sqrt(_squared_distances(first, second))
    steps, last_column = _cheapest_steps(distances)
    rows, columns = distances.shape
    row = rows - 1
    if is_second_cut:
        row = int((last_column / (np.arange(rows) + columns)).argmin())
    return _trace(steps, row, columns - 1)


def nearest(first: Floats, second: Floats) -> Pairs:
    """Each frame of both with its nearest one in the other, by features of shape (frames, features)."""
    distances = _squared_distances(first, second)
    here, there = np.arange(len(first)), np.arange(len(second))
    return Pairs(np.concatenate([here, distances.argmin(axis=0)]), np.concatenate([distances.argmin(axis=1), there]))


def mean_rank(first: Floats, second: Floats, pairs: Pairs) -> float:
    """The share of the second's frames that are nearer to a frame of the first than its partner is: 0.5 by chance."""
    distances = _squared_distances(first, second)
    partners = distances[pairs.first, pairs.second]
    return float(np.mean(distances[pairs.first] < partners[:, np.newaxis]))


def _squared_distances(first: Floats, second: Floats) -> Floats:
    squares = np.square(first).sum(axis=1)[:, np.newaxis] + np.square(second).sum(axis=1)
    distances: Floats = np.maximum(squares - 2 * first @ second.T, 0, dtype=np.float32)
    return distances


def _cheapest_steps(distances: Floats) -> tuple[NDArray[np.int8], Floats]:
    """How the cheapest way to each pair gets there: 0 both go on, 1 the first, 2 the second.

    Diagonal by diagonal, since the pairs of one don't depend on each other. Besides the steps come the costs of the
    pairs with the second's last frame.
    """
    rows, columns = distances.shape
    steps = np.zeros((rows, columns), np.int8)
    last_column = np.full(rows, np.inf, np.float32)
    # Costs of the last two diagonals by row, one row off, so that row -1 is there.
    before = np.full(rows + 1, np.inf, np.float32)
    last = np.full(rows + 1, np.inf, np.float32)
    for diagonal in range(rows + columns - 1):
        row = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        ways = np.stack([before[row], last[row] + STANDING_COST, last[row + 1] + STANDING_COST])
        if diagonal == 0:
            ways[0, 0] = 0
        best = ways.argmin(axis=0)
        steps[row, diagonal - row] = best
        costs = np.full(rows + 1, np.inf, np.float32)
        costs[row + 1] = np.take_along_axis(ways, best[np.newaxis], axis=0)[0] + distances[row, diagonal - row]
        if diagonal >= columns - 1:
            last_column[row[0]] = costs[row[0] + 1]
        before, last = last, costs
    return steps, last_column


def _trace(steps: NDArray[np.int8], row: int, column: int) -> Pairs:
    """The way to a pair, from its start."""
    way = []
    while row >= 0 and column >= 0:
        way.append((row, column))
        step = steps[row, column]
        row -= step != 2  # noqa: PLR2004 - see _cheapest_steps
        column -= step != 1
    first, second = np.array(way[::-1], np.intp).T
    return Pairs(first, second)
