"""Where workers compute: the GPUs that the settings and the machine allow, or the processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import msgspec
import structlog

from dia_server.errors import SettingsError
from dia_server.models import registry
from dia_server.pool.nvml import VISIBLE, Card, NoAnswer, NoDriver, Watch, find_cards
from dia_server.settings import Lane, Settings

log = structlog.get_logger(__name__)


class Device(msgspec.Struct, frozen=True):
    """A GPU by its number among those that are visible here, or the processor, which has no number.

    Attributes:
        uuid: what a worker there gets as the one GPU that it sees.
        kind: the name of its type.
        free: bytes of its memory that were free when it was looked for; 0 if it can't tell.
        total: bytes of its memory; 0 likewise.
    """

    index: int | None = None
    uuid: str = ""
    kind: str = "the processor"
    free: int = 0
    total: int = 0

    @property
    def name(self) -> str:
        """As clients see it."""
        return "cpu" if self.index is None else f"gpu_{self.index}"


CPU = Device()

Pick = Callable[[], Device]


class Found(msgspec.Struct, frozen=True):
    """The GPUs that can be seen here.

    Attributes:
        gpus: those that answer.
        missing: why there are no others; empty if nothing is known of any.
        is_sick: a GPU that should answer doesn't, or their driver.
    """

    gpus: tuple[Device, ...] = ()
    missing: str = ""
    is_sick: bool = False


class Devices:
    """What there is to compute on.

    Attributes:
        found: what can be seen here.
        used: the GPUs that workers may get; none means that all compute on the processor.
        watch: the state of the used ones.
    """

    def __init__(self, settings: Settings) -> None:
        """Look for GPUs, unless the settings want none; takes as long as NVIDIA's driver does.

        Raises:
            SettingsError: the settings want GPUs that aren't there.
        """
        self._settings = settings
        self.found = Found() if settings.gpu_mode == "cpu" else find_devices(os.environ.get(VISIBLE))
        self.used = self._choose()
        self.watch = Watch([gpu.uuid for gpu in self.used])

    @property
    def mode(self) -> Literal["cpu", "single", "multi"]:
        """What `gpu_mode` comes to here."""
        return "multi" if len(self.used) > 1 else "single" if self.used else "cpu"

    @property
    def are_mixed(self) -> bool:
        """GPUs of several types: the same seed gives other bytes on one than on another."""
        return len({gpu.kind for gpu in self.used}) > 1

    def picks(self, lane: Lane) -> list[Pick]:
        """For each of the lane's places, how to choose where its next worker computes."""
        if not self.has_gpu_for(lane, lane.models[0]):
            return [lambda: CPU] * lane.processes
        if lane.idle_timeout is not None:
            return [self._freest] * lane.processes
        return [partial(_fixed, gpu) for gpu in self.used for _ in range(self._settings.workers_per_gpu)]

    def has_gpu_for(self, lane: Lane, model: str) -> bool:
        """Whether a lane that loads this model first computes on GPUs."""
        return bool(self.used) and lane.device == "auto" and "cuda" in registry.manifest(model).devices

    def describe(self) -> str:
        """One line for people."""
        gpus = ", ".join(f"{gpu.index} ({gpu.kind})" for gpu in self.found.gpus) or "none"
        return f"{gpus}; {self.found.missing}" if self.found.missing else gpus

    def announce(self) -> None:
        """Tell the log what is used, and what an admin may not expect."""
        tell = log.warning if self.found.is_sick else log.info
        tell("devices", mode=self.mode, used=[gpu.name for gpu in self.used], found=self.describe())
        if self.are_mixed:
            log.warning("GPUs of several types: a seed's bytes depend on which one speaks; see `allowed_gpus`")

    def _freest(self) -> Device:
        readings = {gpu.index: self.watch.reading(gpu.uuid) for gpu in self.used}
        return max(self.used, key=lambda gpu: reading.free if (reading := readings[gpu.index]) else 0)

    def _choose(self) -> tuple[Device, ...]:
        mode, allowed = self._settings.gpu_mode, self._settings.allowed_gpus
        if mode == "cpu":
            return ()
        gpus = {gpu.index: gpu for gpu in self.found.gpus}
        wanted = list(gpus) if allowed is None else list(dict.fromkeys(allowed))
        missing = [str(index) for index in wanted if index not in gpus]
        if missing:
            raise SettingsError(
                f"`allowed_gpus` names {', '.join(missing)}, but the GPUs here are: {self.describe()}. "
                "Name some of these, set it to null for all, or set `gpu_mode` to cpu"
            )
        if not wanted and mode != "auto":
            reason = "`allowed_gpus` allows none" if gpus else f"the GPUs here are: {self.describe()}"
            raise SettingsError(
                f"`gpu_mode` is {mode}, but {reason}. Install NVIDIA's driver or allow a GPU, or set `gpu_mode` to "
                "auto, which takes the processor where there is no GPU"
            )
        return tuple(gpus[index] for index in (wanted[:1] if mode == "single" else wanted))


def find_devices(visible: str | None) -> Found:
    """The GPUs here, numbered; `visible` is what `CUDA_VISIBLE_DEVICES` says."""
    try:
        cards = find_cards()
    except NoAnswer as problem:
        return Found(missing=str(problem), is_sick=not isinstance(problem, NoDriver))
    seen = cards if visible is None else _visible(visible, cards)
    missing = [f"GPU {index} does not answer: {card.problem}" for index, card in enumerate(seen) if card.problem]
    is_sick = bool(missing)
    if len(seen) < len(cards):
        missing.append(f"{VISIBLE} is '{visible}', which hides {len(cards) - len(seen)}")
    gpus = (
        Device(index, card.uuid, card.kind, card.free, card.total)
        for index, card in enumerate(seen)
        if not card.problem
    )
    return Found(tuple(gpus), "; ".join(missing), is_sick)


def _visible(listed: str, cards: Sequence[Card]) -> list[Card]:
    """The cards that the list of numbers and UUIDs names, in its order; like CUDA, up to the first unknown one."""
    chosen: list[Card] = []
    for entry in (part.strip() for part in listed.split(",")):
        if entry.isdecimal():
            named = list(cards[int(entry) : int(entry) + 1])
        else:
            named = [card for card in cards if entry and card.uuid.startswith(entry)]
        if len(named) != 1:
            break
        chosen += named
    return chosen


def _fixed(device: Device) -> Device:
    return device
