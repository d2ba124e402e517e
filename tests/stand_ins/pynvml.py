"""Stands in for NVML's C library where no GPU is: the GPUs are those of the JSON file `$STAND_IN_GPUS`.

Each is an object of `uuid`, `name`, `total`, `free` and, while it fails, `error`: `lost`, `unsupported` or `hang`. As
with NVML, what was lost in a session stays lost in it.
"""

# ruff: noqa: N802

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):  # noqa: N801
    pass


class NVMLError_NotSupported(NVMLError):  # noqa: N801
    pass


lost: set[str] = set()


def gpus() -> list[dict[str, Any]]:
    return list(json.loads(Path(os.environ["STAND_IN_GPUS"]).read_text()))


def nvmlInit() -> None:
    lost.clear()


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return len(gpus())


def nvmlDeviceGetHandleByIndex(index: int) -> str:
    return nvmlDeviceGetHandleByUUID(gpus()[index]["uuid"])


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:
    error = find(uuid).get("error")
    if error == "hang":
        time.sleep(1000)
    if error == "lost":
        lost.add(uuid)
    if uuid in lost:
        raise NVMLError("GPU is lost")
    return uuid


def nvmlDeviceGetUUID(handle: str) -> str:
    return handle


def nvmlDeviceGetName(handle: str) -> str:
    return str(find(handle)["name"])


def nvmlDeviceGetMemoryInfo(handle: str) -> SimpleNamespace:
    gpu = find(handle)
    if gpu.get("error") == "unsupported":
        raise NVMLError_NotSupported("Not Supported")
    return SimpleNamespace(total=gpu["total"], free=gpu["free"])


def find(uuid: str) -> dict[str, Any]:
    for gpu in gpus():
        if gpu["uuid"] == uuid:
            return gpu
    raise NVMLError("Not Found")
