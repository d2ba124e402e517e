"""A tiny Dia, as a home has it, and the command line over that home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dia_server.config_file import load_settings
from dia_server.models import registry
from dia_server.models.protocol import Engine
from dia_server.pool.devices import Devices
from dia_server.report import model_state

WEIGHTS, CODEC = "nari-labs/Dia-1.6B-0626", "descript/dac_44khz"
# Short, so that a reading that never ends is cut soon.
HELLO = "[S1] Hello."
Tiny = tuple[Path, Path]


def folders(tiny: Tiny, **setup: Any) -> dict[str, Any]:
    model, codec = tiny
    return {"engine": "dia", "models": {"dia": {"weights": str(model), "codec": str(codec), **setup}}}


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dia_server", *arguments, "--home", str(home)]
    variables = os.environ | {"COLUMNS": "1000"} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


def load(tiny: Tiny, **setup: Any) -> Engine:
    return registry.load_engine("dia", 1, folders(tiny, **setup)["models"]["dia"])


def state(tiny: Tiny, **setup: Any) -> str:
    """What doctor says of the model, without loading it."""
    settings = load_settings(None, {}, folders(tiny, **setup) | {"gpu_mode": "cpu"})
    return model_state(registry.manifest("dia"), settings, Devices(settings))


def cut_off(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
