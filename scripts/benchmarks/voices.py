"""Whether the voices of the server are different people."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np

from benchmarks import speakers
from benchmarks.common import Client, Note, Server, goal, running_server, speech, table
from benchmarks.peers import environment
from benchmarks.texts import PASSAGES

TITLE = "Voices apart"
KNOWN = PASSAGES[::7]
UNSEEN = PASSAGES[3::7]
MEASURED = (
    "How alike the voices of the server are by Resemblyzer: the cosine between their mean embeddings over "
    f"{len(KNOWN)} passages each, and how many of {len(UNSEEN)} other passages are nearest to their own voice's mean."
)

GOAL_SIMILARITY = 0.80


def run(note: Note) -> str:
    """Measure."""
    tools = environment(speakers.NAME, speakers.PACKAGES, note)
    with running_server({}) as server:
        names = sorted(voice["id"] for voice in json.loads(server.get("/voices"))["voices"])
        clips = []
        for name in names:
            note(f"{name} speaks")
            clips += speak(server, name)
    note(f"embeddings of {len(clips)} clips")
    size = len(KNOWN) + len(UNSEEN)
    by_voice = speakers.embed(tools, clips).reshape(len(names), size, -1)
    means = np.array([speakers.mean(embeddings[: len(KNOWN)]) for embeddings in by_voice])
    return report(names, means, by_voice[:, len(KNOWN) :])


def speak(server: Server, voice: str) -> list[bytes]:
    """The passages that make a voice's mean, then the unseen ones, as wav files."""
    client = Client(server.port)
    texts = (*KNOWN, *UNSEEN)
    clips = [b"".join(client.speak(speech(text, "wav", voice=voice, stream=False))) for text in texts]
    client.close()
    return clips


def report(names: list[str], means: np.ndarray, unseen: np.ndarray) -> str:
    """The matrix and what became of the goals.

    Args:
        names: of the voices.
        means: an embedding for each voice.
        unseen: embeddings of other clips, by voice and clip.
    """
    likeness = means @ means.T
    rows = [[name, *(f"{value:.2f}" for value in line)] for name, line in zip(names, likeness, strict=True)]
    matrix = table(["Likeness", *names], rows)
    if len(names) == 1:
        return f"{matrix}\n\nThere is only one voice, so nothing to tell apart."
    first, second = max(combinations(range(len(names)), 2), key=lambda pair: likeness[pair])
    nearest = (unseen @ means.T).argmax(axis=2)
    right = nearest == np.arange(len(names))[:, None]
    return "\n\n".join(
        [
            matrix,
            goal(
                f"no two voices are more alike than {GOAL_SIMILARITY:.2f}",
                f"{likeness[first, second]:.2f} for {names[first]} and {names[second]}",
                met=likeness[first, second] <= GOAL_SIMILARITY,
            ),
            goal(
                "every unseen passage is nearest to its own voice",
                f"{right.sum()} of {right.size}" + confusions(names, nearest, right),
                met=bool(right.all()),
            ),
        ]
    )


def confusions(names: list[str], nearest: np.ndarray, right: np.ndarray) -> str:
    """Which voices were taken for which."""
    wrong = sorted({f"{names[voice]} for {names[nearest[voice, clip]]}" for voice, clip in np.argwhere(~right)})
    return f" ({', '.join(wrong)})" if wrong else ""
