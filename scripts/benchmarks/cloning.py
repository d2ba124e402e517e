"""How much a voice with a recording sounds like it, how well it is understood, and what it costs."""

from __future__ import annotations

import io
import json
import shutil
import statistics
import subprocess
import tempfile
import urllib.request
import uuid
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from benchmarks import piper, quality, speakers
from benchmarks.common import HOST, TEN_WORDS, Client, Note, Server, goal, mb, ms, running_server, speech, table
from benchmarks.hearing import Listener, words_of
from benchmarks.peers import environment
from benchmarks.texts import PASSAGES
from benchmarks.words import Heard, cells, compare

TITLE = "Cloning"
TEXTS = {
    "a": "The harbour was quiet when the ferry came in, and only a few people stood on the pier. An old man with a "
    "grey coat was waiting for his daughter, who had spent the winter in the city. He carried a paper bag with warm "
    "bread.",
    "b": "We walked slowly up the hill, past the market and the school, and talked about the garden, the neighbours, "
    "and the new road behind the church. When we reached the house, the kitchen was warm and the table was already "
    "set.",
}
SENTENCES = (
    "Every window in the old house looked out over the same quiet garden.",
    "We had planned to leave at noon, but the bread was still in the oven.",
    "A letter came for you this afternoon, and it smells faintly of oranges.",
    "Nobody remembers who built the tower, or why it leans toward the sea.",
    "Please hold the ladder while I change the light above the stairs.",
    "My brother keeps three goats, a donkey, and a very loud rooster.",
)
FLITE = ("slt", "rms", "awb", "kal16")
JOE = "joe"
# What the matching was tuned on; the others were not listened to before it stood.
DEVELOPMENT = ("slt-a", "rms-a", "awb-a", "joe-a")
MEASURED = (
    "Prompts of 11 to 14 s by four voices of flite and one of piper, two texts each, uploaded as anybody would. "
    f"Likeness is Resemblyzer's cosine between the stored prompt and {len(SENTENCES)} sentences that are not in it, "
    "by the plain model, by the voice with the prompt and its transcript, and by one without the transcript; the "
    "ceiling is that between the prompt's halves. Words are Whisper tiny.en's, which the matcher has no part of, of "
    "the passages of `words`, each by one prompt of each half in turns; quality is DNSMOS' overall opinion "
    "(speechmos), of the sentences. No recording of a human voice was at hand."
)
PLAIN = "skylark"
GOAL_SHARE, GOAL_POINTS, GOAL_SECONDS, GOAL_PACE = 0.75, 0.05, 0.25, 20
REPEATS = 20


class Prompt(NamedTuple):
    """A recording with its transcript."""

    name: str
    wav: bytes
    transcript: str

    @property
    def voices(self) -> tuple[str, str]:
        """Of the server: one that knows the transcript, one that doesn't."""
        return self.name, f"{self.name}-untold"


class Likeness(NamedTuple):
    """Of a prompt to the plain voice, to its clone, to the one without a transcript, and to itself."""

    plain: float
    clone: float
    untold: float
    ceiling: float


def run(note: Note) -> str:
    """Measure."""
    if shutil.which("flite") is None:
        raise RuntimeError("flite is missing, which speaks the prompts; install it: sudo apt install flite")
    tools = environment(speakers.NAME, speakers.PACKAGES, note), environment(quality.NAME, quality.PACKAGES, note)
    prompts = list(recorded(note))
    with running_server({"auto_transcribe": False}) as server:
        memory = worker_memory(server)
        note("first requests")
        fresh = [learn(server, prompt) for prompt in prompts]
        grown = max(after - before for before, after in zip(memory, worker_memory(server), strict=True))
        likeness, opinions = listen_closely(server, prompts, tools, note)
        heard, misheard = understand(server, prompts, note)
        warm, paces = speed(server, prompts)
    costs = [
        ["first audio, warm", f"**{ms(warm)}**"],
        ["first audio of a new prompt, median and longest", f"{ms(statistics.median(fresh))}, {ms(max(fresh))}"],
        ["pace in a worker, plain and cloned", f"{paces[0]:.0f}x, **{paces[1]:.0f}x** real time on one core"],
        [f"what a worker gains by {len(prompts)} prompts, each with and without transcript", mb(grown)],
    ]
    return "\n\n".join(
        [
            likeness_table(likeness, misheard),
            table(["Heard", "Words", "Replaced", "Left out", "Added", "Word error rate", "95 % interval"], heard),
            table(["DNSMOS", "Prompts", "Plain", "Cloned", "Without transcript"], [["mean", *opinions]]),
            table(["Cost", "Figure"], costs),
            *goals(likeness, misheard, warm, paces[1]),
        ]
    )


def recorded(note: Note) -> Iterator[Prompt]:
    """All prompts, as flite and piper speak them."""
    tools = environment("piper", piper.PACKAGES, note)
    model = subprocess.check_output([f"{tools}/python", "-c", piper.VOICE_CODE], text=True).strip()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompt.wav"
        for text, words in TEXTS.items():
            for voice in (*FLITE, JOE):
                note(f"{voice} speaks")
                command = ["flite", "-voice", voice, "-t", words, "-o", str(file)]
                if voice == JOE:
                    command = [f"{tools}/python", "-m", "piper", "-m", model, "-f", str(file), "--", words]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                yield Prompt(f"{voice}-{text}", file.read_bytes(), words)


def learn(server: Server, prompt: Prompt) -> float:
    """Upload a prompt and make its voices; seconds until the first audio of the one that knows the transcript."""
    upload(server, prompt)
    client = Client(server.port)
    for voice, transcript in zip(prompt.voices, (prompt.transcript, None), strict=True):
        mapping = {"voice_id": voice, "audio_prompt": prompt.name, "audio_prompt_transcript": transcript}
        post(server, "/voice_mappings", json.dumps(mapping).encode(), "application/json")
    seconds, _ = (client.first_byte(speech(TEN_WORDS, "wav", voice=voice)) for voice in prompt.voices)
    client.close()
    return seconds


def upload(server: Server, prompt: Prompt) -> None:
    """Store a prompt, as a form with a file does."""
    boundary = uuid.uuid4().hex
    parts = [
        f'name="prompt_id"\r\n\r\n{prompt.name}'.encode(),
        b'name="audio_file"; filename="a.wav"\r\n\r\n' + prompt.wav,
    ]
    body = b"".join(f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts)
    post(server, "/audio_prompts/upload", body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; {boundary=!s}")


def post(server: Server, path: str, body: bytes, kind: str) -> None:
    """Send what has to be accepted."""
    request = urllib.request.Request(f"http://{HOST}:{server.port}{path}", body, {"Content-Type": kind})
    urllib.request.urlopen(request).close()  # noqa: S310 - our own server


def stored(server: Server, prompt: Prompt) -> bytes:
    """A prompt as the server keeps it."""
    address = f"http://{HOST}:{server.port}/audio_prompts/{prompt.name}/audio"
    with urllib.request.urlopen(address) as answer:
        data: bytes = answer.read()
        return data


def say(server: Server, voice: str, texts: Sequence[str]) -> list[bytes]:
    """Wav files."""
    client = Client(server.port)
    clips = [b"".join(client.speak(speech(text, "wav", voice=voice, stream=False))) for text in texts]
    client.close()
    return clips


def listen_closely(
    server: Server, prompts: Sequence[Prompt], tools: tuple[Path, Path], note: Note
) -> tuple[dict[str, Likeness], list[str]]:
    """The likeness of each prompt, and the cells with DNSMOS' opinions."""
    note("sentences")
    kept = [stored(server, prompt) for prompt in prompts]
    plain = say(server, PLAIN, SENTENCES)
    clones, untold = (
        [clip for prompt in prompts for clip in say(server, prompt.voices[number], SENTENCES)] for number in (0, 1)
    )
    halves = [half for wav in kept for half in halves_of(wav)]
    note("embeddings")
    parts = [kept, plain, clones, untold, halves]
    together = speakers.embed(tools[0], [clip for part in parts for clip in part])
    embeddings = np.split(together, np.cumsum([len(part) for part in parts])[:-1])
    count = len(prompts)
    of_clones, of_untold, of_halves = (part.reshape(count, -1, part.shape[-1]) for part in embeddings[2:])
    likeness = {
        prompt.name: Likeness(
            float((embeddings[1] @ own).mean()),
            float((clone @ own).mean()),
            float((other @ own).mean()),
            float(pair[0] @ pair[1]),
        )
        for prompt, own, clone, other, pair in zip(prompts, embeddings[0], of_clones, of_untold, of_halves, strict=True)
    }
    note("quality")
    opinions = [f"{quality.rate(tools[1], part).mean():.2f}" for part in parts[:4]]
    return likeness, opinions


def halves_of(wav: bytes) -> tuple[bytes, bytes]:
    """The halves of a wav file."""
    with wave.open(io.BytesIO(wav)) as file:
        form, half = file.getparams(), file.getnframes() // 2
        parts = file.readframes(half), file.readframes(half)
    halves = []
    for part in parts:
        data = io.BytesIO()
        with wave.open(data, "wb") as writer:
            writer.setparams(form)
            writer.writeframes(part)
        halves.append(data.getvalue())
    return halves[0], halves[1]


def understand(server: Server, prompts: Sequence[Prompt], note: Note) -> tuple[list[list[str]], dict[str, float]]:
    """The table's rows, and word error rates by who spoke: the rows' names, and the prompts'."""
    listener = Listener()
    development = [prompt for prompt in prompts if prompt.name in DEVELOPMENT]
    held_out = [prompt for prompt in prompts if prompt.name not in DEVELOPMENT]
    speaking = {
        "plain": [PLAIN],
        "development": [prompt.voices[0] for prompt in development],
        "held out": [prompt.voices[0] for prompt in held_out],
        "all, without transcript": [prompt.voices[1] for prompt in prompts],
    }
    own = [compare(words_of(prompt.transcript), listener.words(stored(server, prompt))) for prompt in prompts]
    rows, rates = [["the prompts themselves", *cells(own)]], {}
    for name, voices in speaking.items():
        note(f"words, {name}")
        clips = [say(server, voices[at % len(voices)], [passage])[0] for at, passage in enumerate(PASSAGES)]
        heard = [
            compare(words_of(passage), words)
            for passage, words in zip(PASSAGES, listener.words_of_each(clips), strict=True)
        ]
        rows.append([name, *cells(heard)])
        rates[name] = rate_of(heard)
        rates |= {voice: rate_of(heard[at :: len(voices)]) for at, voice in enumerate(voices)}
    return rows, rates


def rate_of(heard: Sequence[Heard]) -> float:
    """Word errors by words."""
    return sum(passage.errors for passage in heard) / sum(passage.words for passage in heard)


def speed(server: Server, prompts: Sequence[Prompt]) -> tuple[float, tuple[float, float]]:
    """Seconds to the first audio of a clone that was heard before; pace of a worker, plain and cloned."""
    client = Client(server.port)
    voices = [prompt.voices[0] for prompt in prompts[:2]]
    bodies = [speech(TEN_WORDS, "wav", voice=voice) for voice in voices for _ in range(REPEATS)]
    warm = statistics.median([client.first_byte(body) for body in bodies][2:])
    paces = []
    for voice in (PLAIN, voices[0]):
        before, size = worker_seconds(server), 0
        for passage in PASSAGES[:REPEATS]:
            size += sum(map(len, client.speak(speech(passage, "pcm", voice=voice))))
        paces.append(size / 48_000 / (worker_seconds(server) - before))
    client.close()
    return warm, (paces[0], paces[1])


def worker_seconds(server: Server) -> float:
    """Processor time of the workers that speak."""
    times = [psutil.Process(worker["pid"]).cpu_times() for worker in speaking_workers(server)]
    return float(sum(used.user + used.system for used in times))


def worker_memory(server: Server) -> list[int]:
    """Bytes of each worker that speaks."""
    return [psutil.Process(worker["pid"]).memory_info().rss for worker in speaking_workers(server)]


def speaking_workers(server: Server) -> list[dict[str, object]]:
    """Those of the speech lane."""
    return [worker for worker in server.workers() if worker["lane"] == "speech"]


def likeness_table(likeness: dict[str, Likeness], misheard: dict[str, float]) -> str:
    """Each prompt, and the means of both halves."""
    names = sorted(likeness, key=lambda name: name not in DEVELOPMENT)
    rows = [[name, *line(likeness[name]), f"{misheard[name]:.1%}"] for name in names]
    rows += [
        [f"**{half}**", *line(mean(likeness, half)), f"{misheard[half]:.1%}"] for half in ("development", "held out")
    ]
    head = ["Prompt", "Plain", "Cloned", "Without transcript", "Ceiling", "Way", "Way without", "Words wrong"]
    return table(head, rows)


def mean(likeness: dict[str, Likeness], half: str) -> Likeness:
    """Of one half of the prompts."""
    chosen = [one for name, one in likeness.items() if (name in DEVELOPMENT) == (half == "development")]
    return Likeness(*(float(value) for value in np.mean(chosen, axis=0)))


def line(one: Likeness) -> list[str]:
    """The cells; the way is that from the plain voice to the ceiling."""
    return [f"{value:.3f}" for value in one] + [f"{way(one, value):.0%}" for value in (one.clone, one.untold)]


def way(one: Likeness, reached: float) -> float:
    """How far from the plain voice to the ceiling a likeness is."""
    return (reached - one.plain) / (one.ceiling - one.plain)


def goals(likeness: dict[str, Likeness], rates: dict[str, float], warm: float, pace: float) -> list[str]:
    """What became of them."""
    held_out = mean(likeness, "held out")
    share, points = way(held_out, held_out.clone), rates["held out"] - rates["plain"]
    return [
        goal(
            f"{GOAL_SHARE:.0%} of the way from the plain voice to the ceiling, for the prompts held out",
            f"{share:.0%}",
            met=share >= GOAL_SHARE,
        ),
        goal(
            f"at most {GOAL_POINTS * 100:.0f} points more word errors than the plain voice, for the prompts held out",
            f"{points * 100:.1f}",
            met=points <= GOAL_POINTS,
        ),
        goal(f"first audio of a known prompt within {ms(GOAL_SECONDS)}", ms(warm), met=warm <= GOAL_SECONDS),
        goal(f"{GOAL_PACE} times real time on one core", f"{pace:.0f}x", met=pace >= GOAL_PACE),
    ]
