"""The engine: the adapter beside this file, run by IndexTTS2's own interpreter."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dia_server.models.hub import contents_of
from dia_server.models.index_tts2 import MANIFEST, IndexTtsOptions, IndexTtsSetup
from dia_server.models.program.engine import ProgramEngine
from dia_server.models.program.process import Launch
from dia_server.models.protocol import Engine

ADAPTER = Path(__file__).with_name("adapter.py")


class _Identity(msgspec.Struct, frozen=True):
    """What the sound depends on besides what the program says itself."""

    setup: IndexTtsSetup
    contents: str


def load(threads: int, setup: IndexTtsSetup) -> Engine:
    """Start the adapter, and wait until it has loaded the model.

    Raises:
        ModelUnavailable: something of it is missing, or it doesn't come up.
    """
    wanted = {
        "version": setup.version,
        "checkpoints": str(setup.weights),
        "half": setup.fp16,
        "use_torch_compile": setup.use_torch_compile,
        "use_deepspeed": setup.use_deepspeed,
        "use_accel": setup.use_accel,
        "use_cuda_kernel": setup.use_cuda_kernel,
    }
    command = (str(setup.interpreter), str(ADAPTER), msgspec.json.encode(wanted).decode())
    code = (setup.folder / "indextts").rglob("*.py")
    weights = (file for file in setup.weights.iterdir() if file.is_file())
    return ProgramEngine(
        Launch(command=command, folder=setup.folder),
        _Identity(setup, contents_of((ADAPTER, *code, *weights))),
        IndexTtsOptions,
        threads,
        sample_rate=MANIFEST.sample_rate,
        task_seconds=setup.task_seconds,
    )
