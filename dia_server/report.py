"""What `dia-server models` and `dia-server doctor` show."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from dia_server import __version__
from dia_server.errors import DiaServerError, SettingsError
from dia_server.models import memory, registry
from dia_server.models.memory import GB, Need
from dia_server.models.protocol import DeviceName, Manifest, nothing_to_check
from dia_server.pool.choice import choose
from dia_server.pool.devices import Devices
from dia_server.serve import listen
from dia_server.services.model_names import check_models
from dia_server.settings import Settings
from dia_server.voices.store import VoiceStore, voices_of

FREE_BYTES = 1_000_000_000


class Finding(msgspec.Struct):
    """One line of the doctor's report; `advice` is what to do if it isn't well."""

    what: str
    well: bool
    found: str
    advice: str = ""


def show_models(settings: Settings) -> None:
    """A table of the installed models."""
    table = Table("model", "state", "licence", "what it is", "from")
    devices = Devices(settings)
    default, reason = choose(settings, devices).default(settings)
    for name, manifest in registry.manifests().items():
        label = f"{name} (default)" if name == default else name
        table.add_row(
            label, model_state(manifest, settings, devices), manifest.licence, manifest.description, manifest.source
        )
    Console().print(table)
    Console().print(f"{default} is the default one: {reason}", markup=False)


def model_state(manifest: Manifest, settings: Settings, devices: Devices | None) -> str:
    """`ready`, or what is missing; without devices nothing is said of memory."""
    if missing := manifest.missing_packages():
        return f"not installed: {', '.join(missing)}"
    try:
        setup = registry.setup_of(manifest.name, settings.models)
        manifest.check(setup)
        lane = settings.lane_of(manifest.name)
        if lane is None:
            return "in no lane: add it to `lanes` in config.yaml"
        if manifest.memory is not None and devices is not None:
            device: DeviceName = "cuda" if devices.has_gpu_for(settings.lanes[lane], manifest.name) else "cpu"
            return _room(manifest.memory(setup, device), settings, settings.lanes[lane].processes, devices, device)
    except DiaServerError as error:
        return error.message
    if missing_files := [download.name for download in manifest.downloads(settings) if not download.path.exists()]:
        return f"ready; `dia-server models pull {manifest.name}` fetches {', '.join(missing_files)}"
    return "ready"


def _room(need: Need, settings: Settings, processes: int, devices: Devices, device: DeviceName) -> str:
    """`ready`, with what the model takes.

    Others may have taken now what is free later, this very server among them: only what could never fit is wrong.

    Raises:
        ModelUnavailable: it could not.
    """
    if device == "cuda":
        shares, what = settings.workers_per_gpu, "a GPU"
        smallest = min(devices.used, key=lambda gpu: gpu.total)
        every, free = smallest.total, min(gpu.free for gpu in devices.used)
    else:
        shares, what = processes, "memory"
        every, free = memory.measure(memory.ALL), memory.measure()
    each = what if shares == 1 else f"{what} for each of {shares} workers"
    if every:
        need.check(every // shares, f"of {each} are there at most")
    short = f", of which {free / GB:.1f} GB in all are free now" if 0 < free < need.total * shares else ""
    return f"ready; takes {need.total / GB:.1f} GB of {each}{short}"


def check(settings: Settings, home: Path) -> bool:
    """Print all findings; whether all is well."""
    table = Table("", "what", Column("found", overflow="fold"), Column("what to do", overflow="fold"))
    well = True
    for finding in _findings(settings, home):
        # Names of extras stand in brackets, which rich takes for markup.
        found, advice = escape(finding.found), escape(finding.advice)
        table.add_row("ok" if finding.well else "[red]!![/red]", finding.what, found, advice)
        well = well and finding.well
    Console().print(table)
    return well


def _findings(settings: Settings, home: Path) -> Iterator[Finding]:
    yield Finding("install", True, f"dia-server {__version__}, Python {platform.python_version()}, {sys.executable}")
    yield Finding("processor", True, f"{os.cpu_count()} cores, {platform.machine()}")
    devices: Devices | None = None
    try:
        devices = Devices(settings)
    except SettingsError as error:
        yield Finding("GPUs", False, error.message, "correct the settings")
    else:
        yield _gpus(settings, devices)
    yield _attempt("models", lambda: _check_models(settings))
    for name, manifest in registry.manifests().items():
        yield _model(name, manifest, settings, devices)
    yield _attempt("encoders", _encoders)
    yield _folders(home)
    yield _voices(home)
    yield _attempt("database", lambda: _database(settings, home))
    yield _port(settings)


def _model(name: str, manifest: Manifest, settings: Settings, devices: Devices | None) -> Finding:
    state = model_state(manifest, settings, devices)
    if manifest.missing_packages() and manifest.extra:
        return Finding(f"model {name}", settings.engine != name, state, f"if you want it: {manifest.installation}")
    if state.startswith("ready"):
        return Finding(f"model {name}", True, state)
    if manifest.check is not nothing_to_check:
        # Whoever has not chosen it needs none of its files.
        is_chosen = name in (settings.engine, settings.emotion_model, settings.index_tts.model)
        advice = "do as it says, or name another model" if is_chosen else "if you want it, do as it says"
        return Finding(f"model {name}", not is_chosen, state, advice)
    return Finding(f"model {name}", False, state, "reinstall with `make clean serve`, or leave the model alone")


def _attempt(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except DiaServerError as error:
        return Finding(what, False, error.message, "correct the settings")
    except Exception as error:  # noqa: BLE001 - whatever is broken is what the doctor is asked for
        return Finding(what, False, f"{type(error).__name__}: {error}", "reinstall with `make clean serve`")


def _gpus(settings: Settings, devices: Devices) -> Finding:
    if settings.gpu_mode == "cpu":
        return Finding("GPUs", True, "not looked for; `gpu_mode` is cpu")
    used = ", ".join(str(gpu.index) for gpu in devices.used) or "the processor"
    mixed = "; of several types, so that a seed's bytes depend on which one speaks" if devices.are_mixed else ""
    advice = "`nvidia-smi` says more; `gpu_mode: cpu` goes without" if devices.found.is_sick else ""
    return Finding("GPUs", not devices.found.is_sick, f"{devices.describe()}; used: {used}{mixed}", advice)


def _check_models(settings: Settings) -> str:
    check_models(settings)
    model, reason = choose(settings, Devices(settings)).default(settings)
    return f"{model} is the default one: {reason}"


def _encoders() -> str:
    import numpy as np

    from dia_server.audio.encode import FORMATS
    from dia_server.audio.pipeline import ClipRenderer

    for name in FORMATS:
        renderer = ClipRenderer(24_000, 1.0, name)
        renderer.feed(np.zeros(24_000, dtype="<f4").tobytes())
        renderer.finish()
    return ", ".join(FORMATS)


def _database(settings: Settings, home: Path) -> str:
    from dia_server.database.database import FILE, describe

    if not settings.database_url and not (home / FILE).exists():
        return f"{home / FILE} will be made at the first start"
    return asyncio.run(describe(settings, home))


def _folders(home: Path) -> Finding:
    free = shutil.disk_usage(home).free
    writable = os.access(home, os.W_OK)
    found = f"{home}: {'writable' if writable else 'read-only'}, {free / 1e9:.1f} GB free"
    return Finding("home", writable and free > FREE_BYTES, found, "" if writable else "choose another with --home")


def _voices(home: Path) -> Finding:
    store = VoiceStore(voices_of(home))
    voices, problems = list(store.list()), store.problems
    found = ", ".join(voices) or "none"
    if problems:
        return Finding("voices", False, found, "; ".join(f"{name}: {text}" for name, text in problems.items()))
    return Finding("voices", bool(voices), found, "" if voices else f"put a voice file into {home / 'voices'}")


def _port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    try:
        listen(settings.host, settings.port).close()
    except SettingsError as error:
        ours = _is_ours(settings)
        return Finding("port", ours, f"{where}: a dia-server is running" if ours else error.message)
    return Finding("port", True, f"{where} is free")


def _is_ours(settings: Settings) -> bool:
    try:
        with urlopen(f"http://{settings.host}:{settings.port}/health", timeout=2) as answer:
            return "fingerprints" in json.load(answer)
    except (OSError, ValueError):
        return False
