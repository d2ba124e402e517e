"""The engine: tasks join and leave the runtime's slots at any step, and their windows become sound together."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Sequence

import msgspec

from dia_server.errors import BadInput
from dia_server.models.dia import DiaOptions, guard
from dia_server.models.dia.codec import Codec
from dia_server.models.dia.prompts import Prompts
from dia_server.models.dia.reading import Lead, carry_of, lead_of, tagged, turns
from dia_server.models.dia.runtime import Outcome, Reading, Runtime
from dia_server.models.dia.speaking import Speaking
from dia_server.models.dia.text import encode
from dia_server.models.recording import BadRecording
from dia_server.tasks import SAMPLE_BYTES, Audio, Done, Event, Failed, Speak

# Layers of a text that is being prepared, between two steps of those who speak.
SLICES = 8

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
        self._frames_per_second = codec.sample_rate / codec.hop_length
        self._free = list(range(self.slots))
        # By task, in the order in which they came.
        self._preparing: dict[int, tuple[int, Preparation]] = {}
        self._speaking: dict[int, Speaking] = {}

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

    def _go_on_preparing(self) -> Iterator[tuple[int, Event]]:
        """Prepare who came first, a little."""
        if not self._preparing:
            return
        task_id, (_, work) = next(iter(self._preparing.items()))
        try:
            for _ in range(SLICES):
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
        """Note the new rows of all who speak, and send what they complete."""
        moved = {task_id: each for task_id, each in self._speaking.items() if each.run in outcome.runs}
        for task_id, speaking in tuple(moved.items()):
            slot = speaking.run.slot
            if outcome.broken[slot]:
                log.error("logits are not finite")
                del moved[task_id]
                self.cancel(task_id)
                yield task_id, Failed("The model's numbers overflowed on this text; try another seed")
                continue
            speaking.add(outcome.codes[slot], int(outcome.since[slot]))
        heard = self._hear(moved)
        for task_id, speaking in moved.items():
            yield from self._send(task_id, speaking, heard[task_id])

    def _hear(self, moved: dict[int, Speaking]) -> dict[int, list[Audio]]:
        """The sound of all windows that are ready, decoded together, by task."""
        ready = [(task_id, window) for task_id, speaking in moved.items() for window in speaking.ready()]
        decoded = self._codec.decode([moved[task_id].codes(each.left, each.right) for task_id, each in ready])
        heard: dict[int, list[Audio]] = {task_id: [] for task_id in moved}
        for (task_id, window), samples in zip(ready, decoded, strict=True):
            heard[task_id].append(moved[task_id].hear(window, samples, self._codec))
        return heard

    def _send(self, task_id: int, speaking: Speaking, heard: Sequence[Audio]) -> Iterator[tuple[int, Event]]:
        findings = speaking.findings(self._codec)
        reading = speaking.run.reading
        # Without a temperature every attempt is the same.
        if findings and not speaking.sent and reading.temperature and speaking.attempt + 1 < guard.ATTEMPTS:
            log.info("a segment is made anew: %s", ", ".join(findings))
            speaking.restart(self._runtime.start(speaking.run.slot, reading, speaking.attempt + 1))
            return
        for audio in speaking.sendable(heard):
            speaking.sent += len(audio.pcm) // SAMPLE_BYTES
            yield task_id, audio
        if speaking.frames is not None:
            self.cancel(task_id)
            carry = carry_of(speaking.task, speaking.codes(0, speaking.frames))
            yield task_id, Done(speaking.sent, carry=carry, findings=findings)
