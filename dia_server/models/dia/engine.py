"""The engine: tasks join and leave the runtime's slots at any step, and their windows become sound together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from dia_server.errors import BadInput
from dia_server.models.dia import DiaOptions, guard
from dia_server.models.dia.codec import Codec, Samples
from dia_server.models.dia.prompts import Prompts
from dia_server.models.dia.reading import carry_of, lead_of, tagged, turns
from dia_server.models.dia.runtime import Outcome, Reading, Run, Runtime
from dia_server.models.dia.speaking import Speaking
from dia_server.models.dia.text import encode
from dia_server.models.recording import BadRecording
from dia_server.tasks import Audio, Done, Event, Failed, Speak

# Layers of a text that is being prepared, between two steps of those who speak.
SLICES = 8

log = logging.getLogger(__name__)


class Tenant:
    """A task in its slot: being prepared while it has `work`, then speaking."""

    def __init__(self, task_id: int, task: Speak, slot: int) -> None:
        self.task_id = task_id
        self.task = task
        self.slot = slot
        self.options = msgspec.convert(task.options, DiaOptions)
        self.work: Iterator[None] | None = None
        self.speaking: Speaking | None = None
        self.attempt = 0
        self.samples = 0


class DiaEngine:
    """Continuous batching over the runtime's slots."""

    def __init__(self, runtime: Runtime, codec: Codec, prompts: Prompts, fingerprint: str) -> None:
        self.slots = runtime.slots.count
        self.fingerprint = fingerprint
        self._runtime = runtime
        self._codec = codec
        self._prompts = prompts
        self._free = list(range(self.slots))
        self._tenants: dict[int, Tenant] = {}

    def admit(self, task_id: int, task: Speak) -> None:
        # A task whose options are refused takes no slot.
        tenant = Tenant(task_id, task, self._free[-1])
        self._free.pop()
        tenant.work = self._prepare(tenant)
        self._tenants[task_id] = tenant

    def cancel(self, task_id: int) -> None:
        if tenant := self._tenants.get(task_id):
            self._leave(tenant)

    def close(self) -> None:
        for tenant in list(self._tenants.values()):
            self._leave(tenant)

    def step(self) -> Iterable[tuple[int, Event]]:
        events = [*self._prepare_some()]
        if outcome := self._runtime.step():
            events += self._take(outcome)
        return events

    def _prepare_some(self) -> Iterator[tuple[int, Event]]:
        """Go on with the tenant that is to speak next: a little if others speak, to the end if nobody does."""
        waiting = [tenant for tenant in self._tenants.values() if tenant.work is not None]
        if not waiting:
            return
        tenant, is_alone = waiting[0], len(waiting) == len(self._tenants)
        try:
            for number, _ in enumerate(tenant.work or (), start=1):
                if number == SLICES and not is_alone:
                    return
        except (BadInput, BadRecording) as error:
            yield self._fail(tenant, Failed(str(error), is_input_wrong=True))
        except Exception:  # whatever a request brings must end it alone
            log.exception("a text can't be prepared")
            yield self._fail(tenant, Failed("The model failed on this text; the server's log says why"))
        else:
            tenant.work = None

    def _prepare(self, tenant: Tenant) -> Iterator[None]:
        task, runtime = tenant.task, self._runtime
        lead = lead_of(task, self._prompts)
        text = encode(tagged(f"{lead.text} [{task.speaker}] {task.text}"), runtime.slots.text_positions)
        prompt = lead.frames(self._codec.codebooks)
        words = " ".join(said for _, said in turns(task.text, task.speaker))
        per_second = self._codec.sample_rate / self._codec.hop_length
        room = runtime.most_frames - len(prompt)
        if room < len(words) / guard.CHARACTERS_PER_SECOND * per_second:
            raise BadInput(
                f"The voice's recordings have {len(prompt) / per_second:.0f} s, which leaves no room for the text; model "
                f"'dia' holds {runtime.most_frames / per_second:.0f} s of both"
            )
        reading = Reading(
            text=text,
            prompt=prompt,
            most_frames=min(room, round(guard.most_seconds(words) * per_second)),
            seed=task.seed,
            guidance=tenant.options.cfg_scale,
            temperature=tenant.options.temperature,
            top_p=tenant.options.top_p,
            top_k=tenant.options.top_k,
        )
        yield from runtime.fill(tenant.slot, reading)
        self._start(tenant, runtime.start(tenant.slot, reading), words)

    def _start(self, tenant: Tenant, run: Run, words: str) -> None:
        is_held = tenant.options.judge == "segment"
        tenant.speaking = Speaking(run, words, self._runtime, is_held=is_held)

    def _take(self, outcome: Outcome) -> Iterator[tuple[int, Event]]:
        """Note the rows of all who speak, and send what they complete."""
        speaking = {tenant.speaking.run: tenant for tenant in self._tenants.values() if tenant.speaking}
        moved = [speaking[run] for run in outcome.runs if run in speaking]
        for tenant in moved:
            assert tenant.speaking is not None
            if outcome.broken[tenant.slot]:
                self._runtime.heal(tenant.slot)
                log.error("logits are not finite")
                yield self._fail(tenant, Failed("The model's numbers overflowed on this text; try another seed"))
            else:
                tenant.speaking.add(outcome.codes[tenant.slot], int(outcome.since[tenant.slot]))
        for tenant, pieces in self._decode([tenant for tenant in moved if tenant.task_id in self._tenants]):
            yield from self._send(tenant, pieces)

    def _decode(self, tenants: list[Tenant]) -> Iterator[tuple[Tenant, list[Samples]]]:
        """What each of them has to send; the windows of all are decoded together."""
        ready = [(tenant, tenant.speaking, *each) for tenant in tenants if tenant.speaking for each in tenant.speaking.ready()]
        decoded = self._codec.decode([codes for *_, codes in ready])
        pieces: dict[int, list[Samples]] = {}
        for (tenant, speaking, window, _), samples in zip(ready, decoded, strict=True):
            pieces.setdefault(tenant.task_id, []).append(speaking.hear(window, samples, self._codec))
        for tenant in tenants:
            yield tenant, pieces.get(tenant.task_id, [])

    def _send(self, tenant: Tenant, pieces: list[Samples]) -> Iterator[tuple[int, Event]]:
        speaking = tenant.speaking
        assert speaking is not None
        found = speaking.findings(self._codec) if speaking.frames is not None else ()
        if found and not tenant.samples and tenant.attempt + 1 < guard.ATTEMPTS:
            log.info("a segment is made anew: %s", ", ".join(found))
            tenant.attempt += 1
            run = self._runtime.start(tenant.slot, speaking.reading, tenant.attempt)
            self._start(tenant, run, speaking.text)
            return
        for piece in pieces:
            yield tenant.task_id, Audio(tenant.samples, piece.astype("<f4", copy=False).tobytes())
            tenant.samples += len(piece)
        if speaking.frames is not None:
            carry = carry_of(tenant.task, speaking.codes(0, speaking.frames))
            self._leave(tenant)
            yield tenant.task_id, Done(tenant.samples, carry=carry, findings=found)

    def _fail(self, tenant: Tenant, failed: Failed) -> tuple[int, Event]:
        self._leave(tenant)
        return tenant.task_id, failed

    def _leave(self, tenant: Tenant) -> None:
        del self._tenants[tenant.task_id]
        self._free.append(tenant.slot)
        if tenant.speaking is not None:
            self._runtime.stop(tenant.speaking.run)
