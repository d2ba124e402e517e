"""The name of everything that a model's samples depend on besides the task."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version

import numpy as np

from dia_server import __version__


def fingerprint(
    model: str,
    *,
    packages: tuple[str, ...],
    revision: str,
    dtype: str,
    threads: int,
    slots: int,
    besides: tuple[str, ...] = (),
) -> str:
    """`<model>-<16 hex digits>`: a hash of all versions, the weights' revision, dtype, processor, threads and slots.

    The processor counts by its instruction sets: vectorised kernels round differently from one set to the next.
    `besides` is what else counts for this model.
    """
    parts = [
        f"dia-server=={__version__}",
        revision,
        *(f"{package}=={version(package)}" for package in packages),
        dtype,
        platform.machine(),
        *_instruction_sets(),
        f"threads={threads}",
        f"slots={slots}",
        *besides,
    ]
    return f"{model}-{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:16]}"


def _instruction_sets() -> list[str]:
    # NumPy offers no public list; this private table has stood at this name since 2.0.
    features: dict[str, bool] = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]  # noqa: SLF001
    return sorted(name for name, present in features.items() if present)
