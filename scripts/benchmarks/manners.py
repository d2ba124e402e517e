"""How much of a recording's manner is taken over, and what chance does to it."""

from __future__ import annotations

import numpy as np

from benchmarks.acoustics import Measures, Reals, Sound, measure
from benchmarks.common import Note, goal, table
from benchmarks.emotions import COLUMNS, HELD_OUT, PUBLISHED, RATE, SEED, STRENGTHS, Voice, changes
from benchmarks.texts import PASSAGES
from dia_server.models.hibari.controls import Manner
from dia_server.models.hibari.engine import plain_speech, speak
from dia_server.models.hibari.manners import manner_of
from dia_server.models.matching.traits import Traits, traits_of
from dia_server.tasks import EMOTIONS, Audio, Delivery, Speak

TITLE = "Manners of recordings"
SAID = PASSAGES[1:6]
SENTENCES = HELD_OUT[:10]
MEASURED = (
    f"What the embedded model takes over from recordings of itself, {len(SAID)} passages in each emotion at "
    f"{STRENGTHS[-1]:g}: the change of {len(SENTENCES)} other sentences by the emotion's own weight, and by the "
    "recording; and how far the measures of plain passages lie apart by chance."
)


def run(note: Note) -> str:
    """Measure."""
    voice = Voice()
    note("plain passages")
    own = traits_of(plain_speech(voice.speaker, Manner()), RATE)
    chance = np.array([traits_of(voice.say(passage), RATE) for passage in PASSAGES])
    plain = [measure(sound) for sound in voice.sounds(SENTENCES)]
    rows, right, count = [], 0, 0
    for emotion in EMOTIONS:
        note(emotion)
        taken = manner_of(traits_of(voice.say(" ".join(SAID), emotion), RATE), own, is_recorded=False)
        by_weight = changes(plain, [measure(sound) for sound in voice.sounds(SENTENCES, emotion)]).mean(axis=0)
        by_recording = changes(plain, spoken(voice, taken)).mean(axis=0)
        rows.append(
            [emotion, *(f"{one:+.1f}, {other:+.1f}" for one, other in zip(by_weight, by_recording, strict=True))]
        )
        for way, change in zip(PUBLISHED[emotion], by_recording, strict=True):
            if way in "+-":
                count += 1
                right += bool(change > 0) if way == "+" else bool(change < 0)
    head = ["By weight, by recording", *(f"{name}, {unit}" for name, unit, _ in COLUMNS.values())]
    return "\n\n".join(
        [
            table(head, rows),
            goal("every change by a recording goes the emotion's way", f"{right} of {count}", met=right == count),
            chance_table(own, chance),
        ]
    )


def spoken(voice: Voice, taken: Manner) -> list[Measures]:
    """The sentences in a manner that was taken over."""
    measured = []
    for text in SENTENCES:
        task = Speak(model="hibari", text=text, seed=SEED, delivery=Delivery())
        parts = [event.pcm for event in speak(voice.speaker, task, taken=taken) if isinstance(event, Audio)]
        measured.append(measure(Sound(np.frombuffer(b"".join(parts), "<f4"), RATE)))
    return measured


def chance_table(own: Traits, chance: Reals) -> str:
    """The measures of what voices without a recording read, and of plain passages."""
    head = [
        "Plain speech",
        "F0 mean, st",
        "F0 range, st",
        "Syllables a second",
        "Pause, s",
        "Tilt",
        "Harmonicity",
        "Jitter",
    ]
    lines = {
        "what is compared with": own,
        "passages, mean": chance.mean(axis=0),
        "passages, deviation": chance.std(axis=0),
    }
    return table(head, [[name, *(f"{value:.2f}" for value in values)] for name, values in lines.items()])
