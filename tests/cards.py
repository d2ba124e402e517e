"""GPUs as `stand_ins/pynvml.py` reads them from a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STAND_IN = HERE / "stand_ins" / "pynvml.py"
GB = 1 << 30

# Of the fixture `gpus`.
Write = Callable[..., None]


def gpu(uuid: str, **fields: Any) -> dict[str, Any]:
    return {"uuid": uuid, "name": "Tensor One", "total": 24 * GB, "free": 20 * GB, **fields}


def writer(file: Path) -> Write:
    def write(*found: dict[str, Any]) -> None:
        aside = file.with_suffix(".part")
        aside.write_text(json.dumps(found))
        aside.replace(file)

    return write
