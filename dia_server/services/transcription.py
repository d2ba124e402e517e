"""From a recording to what is said in it: decoded if nobody vouches for it, then listened to in the pool."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from dia_server.audio.resample import Resampler
from dia_server.audio.wav import WavWriter, write_wav
from dia_server.errors import BadInput, ModelUnavailable
from dia_server.files import temporary
from dia_server.models import registry
from dia_server.models.whisper.languages import code_of
from dia_server.pool.pool import Pool
from dia_server.services.account import TimedWord
from dia_server.services.decoding import DECODED_RATE, decode_file
from dia_server.settings import Settings
from dia_server.tasks import Transcribe

MODEL = "whisper"
RATE = 16_000


class TranscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """How to listen.

    Attributes:
        language: ISO 639-1 code or English name; None to have it found out.
        prompt: words that set the style, or names that occur.
        temperature: 0 for the likeliest words, up to 1.
        is_translation: into English.
        with_words: times of single words too.
    """

    language: str | None = None
    prompt: str | None = None
    temperature: float = 0.0
    is_translation: bool = False
    with_words: bool = False


PLAIN = TranscriptionRequest()


class TranscribedSegment(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence or so, with what the decoder says of it; `start` and `end` in seconds, `seek` in hundredths."""

    start: float
    end: float
    text: str
    words: list[TimedWord]
    seek: int
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """What is said.

    Attributes:
        language: code of the language spoken.
        seconds: length of the recording.
        size: of the weights that listened; another than the settings name where those can't be had.
    """

    text: str
    language: str
    seconds: float
    size: str
    segments: list[TranscribedSegment]


class Transcription:
    """The transcription service."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool
        self._size: str | None = None

    @property
    def is_available(self) -> bool:
        """The packages are installed and a lane runs them."""
        installed = not registry.manifest(MODEL).missing_packages()
        return installed and self._settings.lane_of(MODEL) is not None

    @property
    def is_loaded(self) -> bool:
        """A worker is ready to listen."""
        return any(MODEL in place.models for place in self._pool.places)

    @property
    def size(self) -> str:
        """The weights that listened last, while they are loaded; else those that the settings name."""
        return self._size if self._size and self.is_loaded else self._settings.whisper_model_size

    def check(self) -> None:
        """Whether anything can be written down here now, to be asked before any work.

        Raises:
            ModelUnavailable: Whisper is not installed.
            Draining, QueueFull: no work is taken now.
        """
        manifest = registry.manifest(MODEL)
        if manifest.missing_packages():
            raise ModelUnavailable(
                f"Transcription needs Whisper, which is not installed here: run `{manifest.installation}`, and start "
                "the server again",
                retry_after=60,
            )
        self._pool.check_room()

    async def transcribe(self, path: Path) -> str:
        """The text of `listen`."""
        return (await self.listen(path)).text

    async def listen(self, path: Path, request: TranscriptionRequest = PLAIN) -> Transcript:
        """What is said in a 16-bit wav file of ours, at an absolute path; ends its work when it is cancelled.

        Raises:
            BadInput: no such language.
            ModelUnavailable: Whisper is not installed, or its weights can't be had.
            DiaServerError: no work is taken now, or it failed.
        """
        self.check()
        task = Transcribe(
            path=str(path),
            size=self._settings.whisper_model_size,
            is_strict=self._settings.whisper_strict,
            language=_code(request.language),
            prompt=request.prompt,
            temperature=request.temperature,
            is_translation=request.is_translation,
            with_words=request.with_words,
        )
        with self._pool.open(MODEL) as clip:
            run = clip.run(task, urgent=True)
            async for _ in run:
                pass
        transcript = msgspec.convert(run.value, Transcript)
        self._size = transcript.size
        return transcript

    async def listen_to_upload(self, untrusted: Path, request: TranscriptionRequest) -> Transcript:
        """What is said in a sound file that nobody vouches for; see `listen`.

        Raises:
            BadInput: it can't be decoded, or is too long.
        """
        _code(request.language)
        with temporary() as (file, path):
            try:
                await self._decode(untrusted, file)
            except BadInput as error:
                raise BadInput(error.message, param="file") from None
            return await self.listen(path, request)

    async def load(self) -> str:
        """Load the weights that the settings name, by listening to a second of silence; the size that is loaded.

        Raises:
            DiaServerError: as `listen` does.
        """
        with temporary() as (file, path):
            write_wav(file, np.zeros(RATE, np.float32), RATE)
            return (await self.listen(path, TranscriptionRequest(language="en"))).size

    async def _decode(self, untrusted: Path, file: IO[bytes]) -> None:
        resampler = Resampler(DECODED_RATE, RATE)
        with WavWriter(file, RATE) as wav:
            await decode_file(
                self._pool,
                untrusted,
                self._settings.max_transcription_seconds,
                lambda samples: wav.write(resampler.feed(samples)),
            )
            wav.write(resampler.finish())


def _code(language: str | None) -> str | None:
    """The code of a language.

    Raises:
        BadInput: Whisper knows none such.
    """
    if language is None:
        return None
    code = code_of(language)
    if code is None:
        raise BadInput(
            f"Whisper knows no language '{language[:100]}'; send a code such as 'en', or leave it out",
            param="language",
        )
    return code
