"""Clips kept as files, each with a sidecar from which it can be made again."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from dia_server import __version__
from dia_server.audio.encode import FORMATS
from dia_server.blobs import Blobs
from dia_server.errors import BadInput
from dia_server.files import replacing
from dia_server.services import recipe
from dia_server.services.account import Account
from dia_server.services.plan import Plan

FOLDER = "outputs"
SIDECAR = ".json"


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside a saved clip.

    Attributes:
        sha256: of the clip's file.
        fingerprint: of the workers that spoke; others may give other bytes.
        plan: everything that the bytes depend on besides.
    """

    dia_server: str
    id: str
    created_at: str
    seconds: float
    sha256: str
    fingerprint: str | None
    plan: msgspec.Raw


def save(home: Path, plan: Plan, account: Account, audio: bytes) -> str:
    """Write a clip and its sidecar; returns the clip's path within the home.

    Raises:
        OSError: they can't be written.
    """
    now = datetime.now(UTC)
    path = Path(FOLDER, f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}.{FORMATS[plan.format].extension}")
    sidecar = Sidecar(
        dia_server=__version__,
        id=account.id,
        created_at=now.isoformat(timespec="milliseconds"),
        seconds=account.seconds,
        sha256=hashlib.sha256(audio).hexdigest(),
        fingerprint=account.fingerprint,
        plan=msgspec.Raw(recipe.encode(plan)),
    )
    (home / FOLDER).mkdir(exist_ok=True)
    with replacing(home / path) as file:
        file.write(audio)
    try:
        with replacing(home / path.with_suffix(SIDECAR)) as file:
            file.write(_pretty(sidecar))
    except OSError:
        (home / path).unlink()
        raise
    return path.as_posix()


def read(file: Path, blobs: Blobs) -> tuple[Sidecar, Plan]:
    """A sidecar and its plan.

    Raises:
        BadInput: it is none, or a recording that the voice imitates is not in these blobs.
    """
    try:
        sidecar = msgspec.json.decode(file.read_bytes(), type=Sidecar)
        plan = recipe.decode(sidecar.plan, blobs)
    except OSError as error:
        raise BadInput(f"Can't read {file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is no sidecar of a saved clip: {error}") from None
    for reference in plan.references:
        if not Path(reference.path).is_file():
            raise BadInput(
                f"The voice imitates a recording that is not there any more: {reference.path}. Put the wav file "
                f"with sha256 {reference.sha256} there"
            )
    return sidecar, plan


def _pretty(sidecar: Sidecar) -> bytes:
    return msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"
