"""The engine: tasks join and leave the runtime's slots at any step, and their windows become sound together."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator

import msgspec

from dia_server.errors import BadInput
from dia_server.models.dia import DiaOptions, guard
from dia_server.models.dia.codec import Codec, Decoding
from dia_server.models.dia.prompts import Prompts
from dia_server.models.dia.reading import Lead, carry_of, lead_of, tagged, turns
from dia_server.models.dia.runtime import Outcome, Reading, Runtime
from dia_server.models.dia.speaking import Speaking
from dia_server.models.dia.text import encode
from dia_server.models.dia.windows import Window
from dia_server.models.recording import BadRecording
from dia_server.tasks import SAMPLE_BYTES, Done, Event, Failed, Speak

# Layers of texts that are being prepared, between two steps of those who speak. A text has 30, and what is computed
# for a request sooner delays the others no more than later, as long as it isn't so much at once that their sound stops.
# On a GPU, where a layer should take less than a tenth of a frame, a whole text does no harm, and many who come at once
# wait for a step each; on the processor a layer of a recording takes seconds.
SLICES, MOST_SLICES_ON_GPU = 8, 32

Preparation = Generator[None, None, Speaking]

log = logging.getLogger(__name__)


class DiaEngine:
    """Continuous batching over the runtime's slots."""

    def __init__(self, runtime: Runtime, codec: Codec, prompts: Prompts, fingerprint: str) -> None:
        self.slots = runtime.slots.count
        self.fingerprint = fingerprint
        self._runtime = runtime
        self._codec = codec
        self._prompts = prompts
        self._most_slices = MOST_SLICES_ON_GPU if runtime.is_on_gpu else SLICES
        self._frames_per_second = codec.sample_rate / codec.hop_length
        self._free = list(range(self.slots))
        # By task, in the order in which they came.
        self._preparing: dict[int, tuple[int, Preparation]] = {}
        self._speaking: dict[int, Speaking] = {}
        # Windows of theirs, or of some who have left, in the order in which they were launched.
        self._decoding: deque[tuple[list[tuple[Speaking, Window]], Decoding]] = deque()

    def admit(self, task_id: int, task: Speak) -> None:
        # A task whose options are refused takes no slot.
        options = msgspec.convert(task.options, DiaOptions)
        slot = self._free.pop()
        self._preparing[task_id] = slot, self._prepare(task, options, slot)

    def cancel(self, task_id: int) -> None:
        if task_id in self._preparing:
            slot, work = self._preparing.pop(task_id)
            work.close()
            self._free.append(slot)
        if task_id in self._speaking:
            run = self._speaking.pop(task_id).run
            self._runtime.stop(run)
            self._free.append(run.slot)

    def close(self) -> None:
        for task_id in (*self._preparing, *self._speaking):
            self.cancel(task_id)

    def step(self) -> Iterable[tuple[int, Event]]:
        yield from self._go_on_preparing()
        outcome = self._runtime.step()
        if outcome is not None:
            yield from self._take(outcome)
        self._hear(waits=outcome is None and not self._preparing)
        for task_id, speaking in tuple(self._speaking.items()):
            yield from self._send(task_id, speaking)

    def _go_on_preparing(self) -> Iterator[tuple[int, Event]]:
        """Prepare who came first, more of them the more there are."""
        left = min(SLICES * len(self._preparing), self._most_slices)
        while left > 0 and self._preparing:
            task_id, (_, work) = next(iter(self._preparing.items()))
            left = yield from self._prepare_more(task_id, work, left)

    def _prepare_more(self, task_id: int, work: Preparation, left: int) -> Generator[tuple[int, Event], None, int]:
        """Some slices of one task; what is left of them behind its end."""
        try:
            while left:
                left -= 1
                next(work)
        except StopIteration as end:
            self._speaking[task_id] = end.value
            del self._preparing[task_id]
        except (BadInput, BadRecording) as error:
            self.cancel(task_id)
            yield task_id, Failed(str(error), is_input_wrong=True)
        except Exception:  # whatever a request brings must end it alone
            log.exception("a text can't be prepared")
            self.cancel(task_id)
            yield task_id, Failed("The model failed on this text; the server's log says why")
        return left

    def _prepare(self, task: Speak, options: DiaOptions, slot: int) -> Preparation:
        words = " ".join(said for _, said in turns(task.text, task.speaker))
        lead = lead_of(task, self._prompts)
        if task.carry and self._room(lead) < self._expected(words):
            # The segment before ran away. Another voice is better than none.
            lead = Lead()
        text = encode(tagged(f"{lead.text} [{task.speaker}] {task.text}"), self._runtime.slots.text_positions)
        if self._room(lead) < self._expected(words):
            raise BadInput(
                "The voice's recordings leave no room for the text; model 'dia' holds "
                f"{self._runtime.most_frames / self._frames_per_second:.0f} s of both"
            )
        reading = Reading(
            text=text,
            prompt=lead.frames(self._codec.codebooks),
            most_frames=min(self._room(lead), round(guard.most_seconds(words) * self._frames_per_second)),
            seed=task.seed,
            guidance=options.cfg_scale,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
        )
        yield from self._runtime.fill(slot, reading)
        run = self._runtime.start(slot, reading)
        return Speaking(task, run, words, self._runtime.architecture, is_held=options.judge == "segment")

    def _room(self, lead: Lead) -> int:
        """Frames that are left behind a lead."""
        return self._runtime.most_frames - len(lead.frames(self._codec.codebooks))

    def _expected(self, words: str) -> float:
        """Frames that words take."""
        return guard.seconds(words) * self._frames_per_second

    def _take(self, outcome: Outcome) -> Iterator[tuple[int, Event]]:
        """Note the new rows of all who speak, and have the windows that they complete decoded together."""
        ready: list[tuple[Speaking, Window]] = []
        for task_id, speaking in tuple(self._speaking.items()):
            if speaking.run not in outcome.runs:
                continue
            slot = speaking.run.slot
            if outcome.broken[slot]:
                log.error("logits are not finite")
                self.cancel(task_id)
                yield task_id, Failed("The model's numbers overflowed on this text; try another seed")
                continue
            speaking.add(outcome.codes[slot], int(outcome.since[slot]))
            if speaking.frames is not None:
                self._runtime.stop(speaking.run)
            ready += [(speaking, window) for window in speaking.take_ready()]
        if ready:
            self._decoding.append((ready, self._codec.begin([each.codes(at.left, at.right) for each, at in ready])))

    def _hear(self, *, waits: bool) -> None:
        """Hand out the samples that are here, or all."""
        while self._decoding and (waits or self._decoding[0][1].is_done):
            ready, decoding = self._decoding.popleft()
            for (speaking, window), samples in zip(ready, decoding.samples(), strict=True):
                speaking.hear(window, samples, self._codec)

    def _send(self, task_id: int, speaking: Speaking) -> Iterator[tuple[int, Event]]:
        findings = speaking.findings(self._codec)
        reading = speaking.run.reading
        # Without a temperature every attempt is the same.
        if findings and not speaking.is_out and reading.temperature and speaking.attempt + 1 < guard.ATTEMPTS:
            log.info("a segment is made anew: %s", ", ".join(findings))
            speaking.restart(self._runtime.start(speaking.run.slot, reading, speaking.attempt + 1))
            return
        for audio in speaking.sendable():
            speaking.sent += len(audio.pcm) // SAMPLE_BYTES
            yield task_id, audio
        if speaking.frames is not None and speaking.is_over:
            self.cancel(task_id)
            carry = carry_of(speaking.task, speaking.codes(0, speaking.frames))
            yield task_id, Done(speaking.sent, carry=carry, findings=findings)
