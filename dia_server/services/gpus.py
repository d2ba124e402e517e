"""How the GPUs are doing, by NVML and by the workers that compute on them; nothing here waits for a driver."""

from __future__ import annotations

from typing import Literal

import msgspec

from dia_server.pool.devices import Device
from dia_server.pool.pool import Pool
from dia_server.pool.supervisor import Place

# Cards are sold by these.
GB = 1024**3
# Of 24 GB that leaves 2.4: what loading Whisper beside a speaking model takes, with CUDA's own context.
HIGH_PRESSURE = 0.9


class GpuMemory(msgspec.Struct, frozen=True):
    """In GiB: what workers' tensors take, what workers keep for themselves, all there is, and what nobody has."""

    allocated_gb: float
    reserved_gb: float
    total_gb: float
    free_gb: float


class GpuStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The Dia contract's fields.

    Attributes:
        gpu_mode: what the setting comes to here: `cpu`, `single` or `multi`.
        gpu_count: GPUs that answered when the server started; 0 in mode `cpu`, which looks for none.
        allowed_gpus: the numbers of those that are used.
        models_loaded: whether a worker there is up; `cpu` is told of unless speech has GPUs.
        gpu_memory: without those that can't say: lost ones, and such as share the processor's memory.
    """

    gpu_mode: str
    gpu_count: int
    allowed_gpus: tuple[int, ...]
    use_multi_gpu: bool
    models_loaded: dict[str, bool]
    gpu_memory: dict[str, GpuMemory]


class Pressure(msgspec.Struct, frozen=True):
    """The part of a GPU's memory that is taken, 0 to 1; `high` means that a model more would hardly fit."""

    pressure: float
    status: Literal["normal", "high"]


class Gpus:
    """Looks at the pool's devices and workers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._devices = pool.devices

    def status(self) -> GpuStatus:
        """What the Dia contract tells of GPUs."""
        used = self._devices.used
        memory = {gpu.name: self._memory(gpu) for gpu in used}
        return GpuStatus(
            gpu_mode=self._devices.mode,
            gpu_count=len(self._devices.found.gpus),
            allowed_gpus=tuple(gpu.index for gpu in used if gpu.index is not None),
            use_multi_gpu=len(used) > 1,
            models_loaded={gpu.name: self._is_loaded(gpu) for gpu in used} | self._processor(),
            gpu_memory={name: known for name, known in memory.items() if known is not None},
        )

    def pressure(self) -> dict[str, Pressure]:
        """How full each used GPU is; what a worker keeps without using it counts as free, since it takes that first."""
        found = {}
        for gpu in self._devices.used:
            memory = self._memory(gpu)
            if memory is not None:
                idle = memory.free_gb + memory.reserved_gb - memory.allocated_gb
                taken = round(min(1.0, max(0.0, 1 - idle / memory.total_gb)), 3)
                found[gpu.name] = Pressure(taken, "high" if taken > HIGH_PRESSURE else "normal")
        return found

    def _memory(self, gpu: Device) -> GpuMemory | None:
        reading = self._devices.watch.reading(gpu.uuid)
        if reading is None or not reading.total:
            return None
        workers = [place.memory for place in self._pool.places if place.device == gpu]
        parts = (sum(taken for taken, _ in workers), sum(kept for _, kept in workers), reading.total, reading.free)
        return GpuMemory(*(round(part / GB, 3) for part in parts))

    def _is_loaded(self, gpu: Device) -> bool:
        # A worker without work notices a lost GPU later than NVML does.
        reading = self._devices.watch.reading(gpu.uuid)
        is_lost = reading is not None and bool(reading.problem)
        return not is_lost and any(_is_up(place) for place in self._pool.places if place.device == gpu)

    def _processor(self) -> dict[str, bool]:
        places = [place for place in self._pool.standing if not (place.device and place.device.uuid)]
        return {"cpu": any(_is_up(place) for place in places)} if places else {}


def _is_up(place: Place) -> bool:
    return place.state == "up" and bool(place.models)
