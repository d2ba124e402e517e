"""Which model `engine: auto` stands for: the best one that can run here, found out once, when the pool is made."""

from __future__ import annotations

import msgspec

from dia_server.errors import ModelUnavailable
from dia_server.models import registry
from dia_server.models.memory import GB
from dia_server.models.protocol import Manifest
from dia_server.pool.devices import Devices
from dia_server.settings import Lane, Settings


class Choice(msgspec.Struct, frozen=True):
    """The model behind `auto`, and in a sentence why it is not a better one; empty if there is none."""

    model: str
    reason: str = ""

    def applied(self, settings: Settings) -> Settings:
        """The settings with a model's name as their `engine`."""
        if settings.engine != "auto":
            return settings
        return msgspec.structs.replace(settings, engine=self.model)

    def default(self, settings: Settings) -> tuple[str, str]:
        """The default model under settings that may have changed since, and why it is that."""
        if settings.engine != "auto":
            return settings.engine, "`engine` in the settings names it"
        return self.model, self.reason or "it is the best one that `engine: auto` knows"

    def arranged(self, lane: Lane, settings: Settings) -> Lane:
        """A lane whose first model is the default one, if it runs that at all, or else one that can be loaded here."""
        if len(lane.models) == 1:
            return lane
        first = self.applied(settings).engine
        if first not in lane.models:
            # One look is enough where the first one can be loaded: each may import what finds weights.
            found = (name for name in lane.models if not registry.obstacle(name, settings.models))
            first = next(found, lane.models[0])
        return msgspec.structs.replace(lane, models=(first, *(name for name in lane.models if name != first)))


def choose(settings: Settings, devices: Devices) -> Choice:
    """Look what can run here.

    Raises:
        SettingsError: the settings of a model are wrong.
    """
    ranked = sorted(registry.speaking().values(), key=lambda manifest: -manifest.rank)
    candidates = [manifest for manifest in ranked if manifest.rank]
    last = candidates[-1]
    if settings.engine != "auto":
        # Lanes and GPUs are given out at the start, by the model that was named then; if it can run, it stays.
        runs = any(manifest.name == settings.engine and not _missing(manifest, settings) for manifest in candidates)
        reason = f"`engine` was '{settings.engine}' when the server started, and a restart looks anew"
        return Choice(settings.engine if runs else last.name, reason)
    found: list[str] = []
    for manifest in candidates:
        obstacle = _obstacle(manifest, settings, devices)
        if not obstacle or manifest is last:
            return Choice(manifest.name, "; ".join(found))
        found.append(f"not '{manifest.name}': {obstacle}")
    raise AssertionError("the last one is taken")


def _obstacle(manifest: Manifest, settings: Settings, devices: Devices) -> str:
    """Why a model can't be the default one here, and what to do; empty if it can."""
    lane = settings.lane_of(manifest.name)
    if manifest.memory is None or lane is None or manifest.missing_packages():
        return _missing(manifest, settings)
    if not devices.has_gpu_for(settings.lanes[lane], manifest.name):
        return f"its lane '{lane}' uses no GPU" if devices.used else "it wants a GPU, and none is used"
    try:
        need = manifest.memory(registry.setup_of(manifest.name, settings.models), "cuda")
    except ModelUnavailable as error:
        return error.message
    return _no_room(need.total * settings.workers_per_gpu, devices)


def _missing(manifest: Manifest, settings: Settings) -> str:
    """What a model lacks to run here at all, and what to do; empty if it lacks nothing."""
    if obstacle := manifest.not_installed():
        return obstacle
    if settings.lane_of(manifest.name) is None:
        return "no lane runs it; `lanes` in config.yaml may name it"
    try:
        manifest.check(registry.setup_of(manifest.name, settings.models))
    except ModelUnavailable as error:
        return error.message
    return ""


def _no_room(wanted: int, devices: Devices) -> str:
    """Which GPUs have less memory free than every used one needs; one that can't tell is believed to have it."""
    small = [f"{gpu.name} has {gpu.free / GB:.1f} GB" for gpu in devices.used if 0 < gpu.free < wanted]
    return f"it needs {wanted / GB:.1f} GB free on each GPU, and {', '.join(small)}" if small else ""
