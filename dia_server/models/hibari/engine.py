"""The engine: read, predict, direct, decode, level; one sentence a step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache, partial
from importlib import resources

import msgspec
import numpy as np
from hibari.g2p import G2P

from dia_server.audio.loudness import levelled
from dia_server.audio.samples import Samples
from dia_server.models.fingerprint import fingerprint
from dia_server.models.hibari import MANIFEST, HibariOptions, bases
from dia_server.models.hibari.bases import cache_folder
from dia_server.models.hibari.cloning import Cloning, imitate, rendered
from dia_server.models.hibari.controls import Manner, Prosody
from dia_server.models.hibari.deliveries import beside, direct, partner_of
from dia_server.models.hibari.emotions import mixed
from dia_server.models.hibari.judging import Reading, Said, judged
from dia_server.models.hibari.manners import PROSE, Manners, manner_of
from dia_server.models.hibari.marks import locate
from dia_server.models.hibari.network import Network
from dia_server.models.hibari.reading import Reader, Sentence
from dia_server.models.hibari.steering import BINS, VOICED_HZ, accents_of, bend, colour, lengthen, press
from dia_server.models.hibari.synthesis import synthesize
from dia_server.models.matching.analysis import Frames
from dia_server.models.matching.matcher import Match
from dia_server.models.protocol import Engine, NoSetup, Sequential
from dia_server.models.recording import BadRecording
from dia_server.tasks import Audio, Done, Event, Failed, Marks, Speak, Word

PACKAGES = ("hibari-tts", "onnxruntime", "onnx", "numpy", "scipy", "soxr", "pyworld-prebuilt")

# Of full scale: 2 dB above the plain voice's own, with room for peaks and for louder deliveries.
LEVEL_DB = -23.0

# The first stage counts them.
DURATION_SECONDS = 0.025

# Nobody says more in the time that is rehearsed.
MAX_REHEARSED_CHARACTERS = 2_000

# What `use_random` makes of each control of an emotion, as a share of what it is.
VARIED = (0.6, 1.4)
# Keeps these draws apart from those of the noise, which the same seed drives.
VARIATION = 1


class DamagedWeights(Exception):
    """A file of weights is not what it should be."""


class Speaker:
    """One trained voice, loaded."""

    def __init__(self, base: str, threads: int) -> None:
        self.name = base
        known = bases()[base]
        if hashlib.sha256(known.file.path.read_bytes()).hexdigest() != known.file.sha256:
            raise DamagedWeights(
                f"{known.file.path.name} is damaged; delete it and fetch it again with `dia-server models pull hibari`"
            )
        vocabulary = msgspec.json.decode(
            (resources.files("hibari") / "assets" / "vocab.json").read_bytes(), type=dict[str, int]
        )
        self.network = Network(known.file.path, threads)
        self.reader = Reader(vocabulary, G2P(british=known.is_british))

    def say(
        self, sentence: Sentence, manner: Manner, speed: float, noise: np.random.Generator, match: Match | None = None
    ) -> Said:
        """A sentence, said; with a `match`, as its target sounds."""
        plain, hidden = self.network.durations(sentence.ids, speed)
        durations = lengthen(plain, sentence, manner.prosody)
        f0, energy = self.network.melody(durations, hidden)
        words = locate(sentence.words, durations, energy)
        energy = press(energy, manner.prosody)
        accents = accents_of(sentence, durations)
        if match is None:
            f0 = bend(f0, manner.prosody, noise, accents)
            spectra = self.network.spectra(sentence.ids, durations, f0, energy)
        else:
            own, own_f0 = self.network.spectra(sentence.ids, durations, f0, energy), f0
            f0 = bend(match.melody(own_f0, own_f0 > VOICED_HZ), manner.prosody, noise, accents)
            spectra = imitate(own, own_f0, f0, match)
        spectra = colour(spectra, manner.timbre)
        samples = synthesize(spectra, f0 if manner.timbre.breath < 1 else np.zeros_like(f0), noise)
        # Punctuation alone is a breath, which must not become as loud as speech.
        if words:
            samples = levelled(samples, MANIFEST.sample_rate, LEVEL_DB + manner.timbre.gain)
        return Said(samples, words, DURATION_SECONDS * float(plain.sum()), len(sentence.ids), f0)

    def rehearse(self, text: str, most_seconds: float) -> Frames:
        """The frames of a text in the plain voice; those behind `most_seconds` may be left out."""
        most_frames = round(most_seconds * MANIFEST.sample_rate / MANIFEST.hop_length)
        count, parts = 0, []
        for sentence in self.reader.read(text[:MAX_REHEARSED_CHARACTERS]):
            durations, hidden = self.network.durations(sentence.ids, 1.0)
            f0, energy = self.network.melody(durations, hidden)
            parts.append(rendered(self.network.spectra(sentence.ids, durations, f0, energy), f0))
            count += len(f0)
            if count >= most_frames:
                break
        envelopes = [part.envelopes for part in parts] or [np.zeros((0, BINS), np.float32)]
        return Frames(np.concatenate(envelopes), np.concatenate([np.zeros(0), *(part.f0 for part in parts)]))


def load(threads: int, setup: NoSetup) -> Engine:
    """Load the bundled voice and its pronunciation tables, and say a word, since the first one costs half a second."""
    del setup
    speaker = lru_cache(maxsize=None)(lambda base: Speaker(base, threads))
    options = HibariOptions()
    for _ in _say(speaker(options.base), Speak(model=MANIFEST.name, text="Ready.", seed=0), Manner()):
        pass

    # The package's version fixes the hash of every base.
    name = fingerprint(
        "hibari",
        packages=PACKAGES,
        revision=bases()[options.base].file.sha256,
        dtype="int8",
        threads=threads,
        slots=Sequential.slots,
    )
    cloning = Cloning(cache_folder() / "matches", name)
    manners = Manners(cache_folder() / "manners", name)

    def run(task: Speak) -> Iterator[Event | None]:
        try:
            options = msgspec.convert(task.options, HibariOptions)
            chosen = speaker(options.base)
            reference = task.references.get(task.speaker)
            match = cloning.match(chosen, reference, is_noisy=options.denoise) if reference else None
            own, own_match = _own_manner(task, options, match)
            taken = _taken(manners, chosen, task, own, is_imitated=own_match is not None)
        except DamagedWeights as error:
            yield Failed(str(error))
            return
        except BadRecording as error:
            yield Failed(str(error), is_input_wrong=True)
            return
        yield from judged(task, options, lambda each: speak(chosen, each, match, taken))

    return Sequential(run, name)


def speak(speaker: Speaker, task: Speak, match: Match | None = None, taken: Manner | None = None) -> Iterator[Event]:
    """Read the task's text; samples are float32 at 24 kHz, and the seed drives noise, jitter and variation only.

    With a `match` the voice's own speaker sounds like its target; the voice's options and the delivery act on that. The
    partner is somebody else, and has neither. `taken` is the whole manner of the delivery's recording. `Done.value` is
    the `Reading`.
    """
    options = msgspec.convert(task.options, HibariOptions)
    own, match = _own_manner(task, options, match)
    manner = direct(own, task.delivery, _emotion(task, options, taken or Manner()))
    return _say(speaker, task, manner, match, is_plain=not options.normalize)


def _emotion(task: Speak, options: HibariOptions, taken: Manner) -> Manner:
    """What the delivery's weights make of a manner, or else its recording's."""
    if any(task.delivery.emotion):
        emotion = mixed(task.delivery.emotion)
    else:
        emotion = Manner().moved(taken, task.delivery.emotion_strength)
    if options.use_random:
        emotion = emotion.varied(partial(np.random.default_rng((task.seed, VARIATION)).uniform, *VARIED))
    return emotion


def _own_manner(task: Speak, options: HibariOptions, match: Match | None) -> tuple[Manner, Match | None]:
    """How the task's speaker speaks when nothing is wanted, and the match if it is theirs."""
    voice = Manner(prosody=options.prosody, timbre=options.timbre)
    if match is None:
        return partner_of(voice) if task.is_partner else voice, None
    if task.is_partner:
        return beside(match.depth), None
    return voice.moved(Manner(prosody=Prosody(duration=match.pace))), match


def _taken(manners: Manners, speaker: Speaker, task: Speak, own: Manner, *, is_imitated: bool) -> Manner | None:
    """The manner of the delivery's recording, against the speaker's own recording, or their own speech without one.

    Raises:
        BadRecording: one of the recordings can't be read, or there is hardly a voice in it.
    """
    reference = task.delivery.emotion_reference
    if reference is None or any(task.delivery.emotion):
        return None
    wanted = manners.of_recording(reference, "The emotion's recording")
    if is_imitated:
        recorded = manners.of_recording(task.references[task.speaker], "The voice's recording")
        return manner_of(wanted, recorded, is_recorded=True)
    return manner_of(wanted, manners.of_voice(speaker.name, own, partial(plain_speech, speaker)), is_recorded=False)


def plain_speech(speaker: Speaker, manner: Manner) -> Samples:
    """Some prose in a voice's own manner, at 24 kHz: what recordings are compared with."""
    noise = np.random.default_rng(0)
    return np.concatenate([speaker.say(part, manner, 1.0, noise).samples for part in speaker.reader.read(PROSE)])


def _say(
    speaker: Speaker, task: Speak, manner: Manner, match: Match | None = None, *, is_plain: bool = True
) -> Iterator[Event]:
    """The events; `Done` has the `Reading`."""
    noise = np.random.default_rng(task.seed)
    count, reading = 0, Reading()
    for sentence in speaker.reader.read(task.text, is_plain=is_plain):
        said = speaker.say(sentence, manner, task.delivery.speed, noise, match)
        reading.add(said)
        yield Marks(tuple(Word(word.text, count + word.start, count + word.end) for word in said.words))
        yield Audio(first_sample=count, pcm=np.ascontiguousarray(said.samples, dtype="<f4").tobytes())
        count += len(said.samples)
    yield Done(samples=count, value=reading)
