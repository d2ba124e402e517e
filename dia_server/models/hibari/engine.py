"""The engine: read, predict, direct, decode, level; one sentence a step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import resources

import msgspec
import numpy as np
from hibari import dsp
from hibari.g2p import G2P

from dia_server.audio.loudness import levelled
from dia_server.audio.samples import Samples
from dia_server.models.fingerprint import fingerprint
from dia_server.models.hibari import MANIFEST, HibariOptions, bases
from dia_server.models.hibari.deliveries import Manner, direct
from dia_server.models.hibari.marks import locate
from dia_server.models.hibari.network import Network
from dia_server.models.hibari.reading import Reader, Sentence
from dia_server.models.hibari.steering import bend, colour, lengthen
from dia_server.models.protocol import Engine, Sequential
from dia_server.tasks import Audio, Done, Event, Marks, Speak, Word

PACKAGES = ("hibari-tts", "onnxruntime", "onnx", "numpy", "scipy")

# Of full scale: 2 dB above the plain voice's own, with room for peaks and for louder deliveries.
LEVEL_DB = -23.0


class Speaker:
    """One trained voice, loaded."""

    def __init__(self, base: str, threads: int) -> None:
        known = bases()[base]
        vocabulary = msgspec.json.decode(
            (resources.files("hibari") / "assets" / "vocab.json").read_bytes(), type=dict[str, int]
        )
        self.network = Network(known.file.path, threads)
        self.reader = Reader(vocabulary, G2P(british=known.is_british))

    def say(
        self, sentence: Sentence, manner: Manner, speed: float, noise: np.random.Generator
    ) -> tuple[Samples, tuple[Word, ...]]:
        """A sentence's samples, and where in them its words are."""
        durations, hidden = self.network.durations(sentence.ids, speed)
        durations = lengthen(durations, sentence, manner.prosody)
        f0, energy = self.network.melody(durations, hidden)
        words = locate(sentence.words, durations, energy)
        f0, energy = bend(f0, manner.prosody, noise), energy * np.float32(manner.prosody.effort)
        spectra = colour(self.network.spectra(sentence.ids, durations, f0, energy), manner.timbre)
        samples = dsp.synth(*spectra, f0 if manner.timbre.breath < 1 else np.zeros_like(f0), noise)
        return levelled(samples, MANIFEST.sample_rate, LEVEL_DB + manner.timbre.gain), words


def load(threads: int) -> Engine:
    """Load the bundled voice and its pronunciation tables, and say a word, since the first one costs half a second."""
    speaker = lru_cache(maxsize=None)(lambda base: Speaker(base, threads))
    options = HibariOptions()
    for _ in _say(speaker(options.base), "Ready.", Manner(), speed=1.0, seed=0):
        pass
    # The package's version fixes the hash of every base.
    return Sequential(
        lambda task: speak(speaker(msgspec.convert(task.options, HibariOptions).base), task),
        fingerprint(
            "hibari",
            packages=PACKAGES,
            revision=bases()[options.base].file.sha256,
            dtype="int8",
            threads=threads,
            slots=Sequential.slots,
        ),
    )


def speak(speaker: Speaker, task: Speak) -> Iterator[Event]:
    """Read the task's text; samples are float32 at 24 kHz, and the seed drives noise and jitter only."""
    options = msgspec.convert(task.options, HibariOptions)
    voice = Manner(prosody=options.prosody, timbre=options.timbre)
    manner = direct(voice, task.delivery, is_partner=task.is_partner)
    return _say(speaker, task.text, manner, task.delivery.speed, task.seed)


def _say(speaker: Speaker, text: str, manner: Manner, speed: float, seed: int) -> Iterator[Event]:
    noise = np.random.default_rng(seed)
    count = 0
    for sentence in speaker.reader.read(text):
        samples, words = speaker.say(sentence, manner, speed, noise)
        yield Marks(tuple(Word(word.text, count + word.start, count + word.end) for word in words))
        yield Audio(first_sample=count, pcm=np.ascontiguousarray(samples, dtype="<f4").tobytes())
        count += len(samples)
    yield Done(samples=count)
