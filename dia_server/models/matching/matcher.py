"""From pairs of frames to a voice's likeness.

A frame of the source takes on what distinguishes its nearest frames in the rehearsal, speech of the same source, from
the frames of the target that they were paired with. The source's words stay its own: that is why the search is among
frames of one voice, and only the pairing compares two. Pairing and learning take turns, as in D. Erro, A. Moreno and
A. Bonafonte, "INCA algorithm for training voice conversion systems from nonparallel corpora" (IEEE TASLP 18, 2010).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dia_server.models.matching.alignment import Pairs, align, mean_rank, nearest
from dia_server.models.matching.analysis import BINS, Floats, Frames, cepstra

# How frames of one voice are compared: 16 cepstra, loudness counting less, and how 8 of them change.
CEPSTRA, CHANGES, LOUDNESS_WEIGHT = 16, 8, 0.3
# How frames of two voices are: 13 cepstra and their changes, normalised over loud frames, and whether there is a voice.
NORMALISED_CEPSTRA, VOICE_WEIGHT = 13, 1.5
# Loud frames have no less than that percentile of the level, less so many nepers.
LOUD = (95, 4.0)

ALIGNMENT_ROUNDS, SEARCH_ROUNDS = 2, 3
# Frames so near to each other are not each other's neighbours while learning; they'd hide what speech not heard costs.
OWN_FRAMES = 12
FRAMES_AT_ONCE = 256

# Mean rank of partners: 0.03 to 0.14 for a recording's own words, 0.15 to 0.18 where half of them are others, 0.2 to
# 0.4 for other words.
WORST_RANK = 0.16

WIDEST_RANGE = 1.6
# Speech faster than the model's own is no more alike, and less clear.
PACES = (1.0, 1.25)
SPEECH = (90, 3.0)
# In bands of which a recording has nothing, the source keeps its own sound, as loud as at the edge of what there is.
# 16-bit noise has -12.
SILENT, EDGE_BINS = -10.0, 25


class Manner(NamedTuple):
    """How far a match goes.

    Attributes:
        neighbours: of a frame.
        share: of the target's own envelopes; the rest is the source's, changed by the neighbours' differences.
        smoothing: standard deviation in time, in frames.
    """

    neighbours: int
    share: float
    smoothing: float


# Bolder ones are more alike and less clear: decisions/0008.
ALIGNED = Manner(6, 0.4, 1.1)
SEARCHED = Manner(16, 0.0, 1.5)


class Melody(NamedTuple):
    """Mean and standard deviation of the logarithm of F0 in Hz, louder frames counting more."""

    mean: float
    deviation: float


class Match(NamedTuple):
    """What was learned of a target.

    Attributes:
        features: of the rehearsal's frames, shape (frames, features).
        values: what their neighbours among frames of new speech take on, shape (frames, 601).
        source: the rehearsal's melody.
        target: the recording's.
        pace: factor of durations that gives the recording's pace.
        is_aligned: whether the rehearsal says what the recording says.
    """

    features: Floats
    values: Floats
    source: Melody
    target: Melody
    pace: float
    is_aligned: bool

    @property
    def depth(self) -> float:
        """The target's F0 relative to the source's."""
        return float(np.exp(self.target.mean - self.source.mean))

    def imitate(self, envelopes: Floats) -> Floats:
        """New speech of the source with the target's sound: log magnitudes, shape (frames, 601)."""
        return _imitate(self.features, self.values, envelopes, ALIGNED if self.is_aligned else SEARCHED)

    def melody(self, f0: Floats, is_voiced: NDArray[np.bool_]) -> Floats:
        """New F0 in Hz with the target's mean and range; frames without a voice stay as they are."""
        widened = min(self.target.deviation / self.source.deviation, WIDEST_RANGE)
        log_f0 = np.log(f0, where=is_voiced, out=np.zeros_like(f0))
        moved = np.exp((log_f0 - self.source.mean) * widened + self.target.mean)
        return np.where(is_voiced, moved, f0).astype(np.float32)


def learn(rehearsal: Frames, target: Frames, *, says_the_same: bool, is_cut: bool = False) -> Match:
    """Learn a target's sound.

    Args:
        rehearsal: some seconds of the source; both need loud frames with a voice.
        target: the recording to imitate.
        says_the_same: the rehearsal has the words of the recording. If they don't fit, frames are paired by likeness.
        is_cut: the recording was cut short, so the rehearsal may go on.

    Raises:
        ValueError: one of the two has no voice in it.
    """
    source_melody, target_melody = _melody(rehearsal), _melody(target)
    features = _features(rehearsal.envelopes)
    pairs = _aligned(rehearsal, target, features, is_cut=is_cut) if says_the_same else None
    is_aligned = pairs is not None
    if pairs is None:
        pairs = _searched(rehearsal, target, features)
    values, has_value = _values(rehearsal, target, pairs, ALIGNED if is_aligned else SEARCHED)
    return Match(
        features[has_value],
        values[has_value],
        source_melody,
        target_melody,
        _pace(rehearsal, target, pairs) if is_aligned else 1.0,
        is_aligned,
    )


def _aligned(rehearsal: Frames, target: Frames, features: Floats, *, is_cut: bool) -> Pairs | None:
    """The pairs in order, or None if the two say different things."""
    imitation = rehearsal
    for _ in range(ALIGNMENT_ROUNDS):
        pairs = align(_normalised(imitation), _normalised(target), is_second_cut=is_cut)
        imitation = _rehearsed(rehearsal, target, features, pairs, ALIGNED)
    rank = mean_rank(_normalised(imitation), _normalised(target), pairs)
    return pairs if rank < WORST_RANK else None


def _searched(rehearsal: Frames, target: Frames, features: Floats) -> Pairs:
    imitation = rehearsal
    for _ in range(SEARCH_ROUNDS):
        pairs = nearest(_normalised(imitation), _normalised(target))
        imitation = _rehearsed(rehearsal, target, features, pairs, SEARCHED)
    return pairs


def _rehearsed(rehearsal: Frames, target: Frames, features: Floats, pairs: Pairs, manner: Manner) -> Frames:
    """The rehearsal as an imitation of the target, each frame learned from others."""
    values, has_value = _values(rehearsal, target, pairs, manner)
    places = np.flatnonzero(has_value)
    imitated = _imitate(features[places], values[places], rehearsal.envelopes, manner, own=places)
    return rehearsal._replace(envelopes=imitated)


def _values(rehearsal: Frames, target: Frames, pairs: Pairs, manner: Manner) -> tuple[Floats, NDArray[np.bool_]]:
    """The mean of each frame's partners less what stays of the frame itself, and whether it has partners."""
    counts = np.bincount(pairs.first, minlength=len(rehearsal.envelopes))
    sums = np.zeros_like(rehearsal.envelopes)
    np.add.at(sums, pairs.first, target.envelopes[pairs.second])
    means = sums / np.maximum(counts, 1)[:, np.newaxis].astype(np.float32)
    edge = _band_edge(target.envelopes)
    near = slice(edge - EDGE_BINS, edge)
    gain = (means[:, near] - rehearsal.envelopes[:, near]).mean(axis=1, keepdims=True)
    means[:, edge:] = rehearsal.envelopes[:, edge:] + gain
    return means - np.float32(1 - manner.share) * rehearsal.envelopes, counts > 0


def _imitate(
    features: Floats, values: Floats, envelopes: Floats, manner: Manner, own: NDArray[np.intp] | None = None
) -> Floats:
    """`own` tells which frames `features` are of, where they are of the same speech."""
    wanted = _features(envelopes)
    taken = np.empty_like(envelopes)
    for start in range(0, len(wanted), FRAMES_AT_ONCE):
        block = wanted[start : start + FRAMES_AT_ONCE]
        squares = np.square(block).sum(axis=1)[:, np.newaxis] + np.square(features).sum(axis=1)
        distances = np.maximum(squares - 2 * block @ features.T, 0)
        if own is not None:
            places = np.arange(start, start + len(block))[:, np.newaxis]
            distances[np.abs(places - own) <= OWN_FRAMES] = np.inf
        count = min(manner.neighbours, len(features))
        nearby = np.argpartition(distances, count - 1, axis=1)[:, :count]
        far = np.take_along_axis(distances, nearby, axis=1)
        weights = np.exp(-far / (2 * np.median(far[np.isfinite(far)]) + 1e-9))
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
        taken[start : start + len(block)] = (weights[:, np.newaxis] @ values[nearby])[:, 0]
    return envelopes + _smoothed(taken - np.float32(manner.share) * envelopes, manner.smoothing)


def _smoothed(change: Floats, deviation: float) -> Floats:
    """The same through a Gaussian window in time."""
    reach = int(np.ceil(3 * deviation))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    padded = np.pad(change, ((reach, reach), (0, 0)), mode="edge")
    smooth = np.zeros_like(change)
    for shift, weight in enumerate(weights / weights.sum()):
        smooth += np.float32(weight) * padded[shift : shift + len(change)]
    return smooth


def _features(envelopes: Floats) -> Floats:
    """What likeness of frames of one voice goes by, shape (frames, 24)."""
    shape = cepstra(envelopes, CEPSTRA)
    changes = _changes(shape[:, :CHANGES])
    shape[:, 0] *= LOUDNESS_WEIGHT
    return np.hstack([shape, changes])


def _normalised(frames: Frames) -> Floats:
    """What likeness of frames of two voices goes by, shape (frames, 27)."""
    shape = cepstra(frames.envelopes, NORMALISED_CEPSTRA)
    loud = shape[_is_loud(shape[:, 0], *LOUD)]
    shape = (shape - loud.mean(axis=0)) / (loud.std(axis=0) + np.float32(1e-6))
    voice = np.float32(VOICE_WEIGHT) * frames.is_voiced[:, np.newaxis]
    return np.hstack([shape, _changes(shape), voice]).astype(np.float32)


def _changes(shape: Floats) -> Floats:
    return np.gradient(shape, axis=0).astype(np.float32) if len(shape) > 1 else np.zeros_like(shape)


def _is_loud(level: Floats, percentile: float, reach: float) -> NDArray[np.bool_]:
    return np.asarray(level > np.percentile(level, percentile) - reach)


def _level(envelopes: Floats) -> Floats:
    """Mean log magnitude from 100 Hz to 6 kHz, shape (frames,)."""
    return np.asarray(envelopes[:, 5:300].mean(axis=1))


def _melody(frames: Frames) -> Melody:
    voiced = frames.is_voiced
    if not voiced.any():
        raise ValueError("There is no voice in it")
    log_f0 = np.log(frames.f0[voiced].astype(np.float64))
    weights = np.sqrt(np.exp(2 * frames.envelopes[voiced][:, 5:200].astype(np.float64)).sum(axis=1))
    mean = float(np.average(log_f0, weights=weights))
    return Melody(mean, max(float(np.sqrt(np.average((log_f0 - mean) ** 2, weights=weights))), 0.01))


def _pace(rehearsal: Frames, target: Frames, pairs: Pairs) -> float:
    """By the frames with speech between the first and the last pair."""
    spoken = _level(target.envelopes[: pairs.second.max() + 1]), _level(rehearsal.envelopes[: pairs.first.max() + 1])
    ours, theirs = (int(_is_loud(level, *SPEECH).sum()) for level in reversed(spoken))
    return float(np.clip(theirs / ours, *PACES))


def _band_edge(target: Floats) -> int:
    """The first bin above all that a recording has heard."""
    loud = target[_is_loud(_level(target), *SPEECH)].mean(axis=0)
    return int(np.flatnonzero(loud > SILENT)[-1]) + 1 if loud.max() > SILENT else BINS
