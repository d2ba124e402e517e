"""Hashes of large files, and the files that keep them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from dia_server.models import hashes
from dia_server.models.hashes import sha256_of

PAST = 1_000_000_000


def settled(path: Path, content: bytes, seconds: int = PAST) -> Path:
    path.write_bytes(content)
    os.utime(path, (seconds, seconds))
    return path


def of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept = settled(tmp_path / "weights", b"one"), tmp_path / "kept"
    assert sha256_of(path, kept) == of(b"one")

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(hashes.hashlib, "file_digest", never)
    assert sha256_of(path, kept) == of(b"one")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert sha256_of(link, kept) == of(b"one")


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path, kept = settled(tmp_path / "weights", b"one"), tmp_path / "kept"
    assert sha256_of(path, kept) == of(b"one")
    assert sha256_of(settled(path, b"two", PAST + 1), kept) == of(b"two")
    assert sha256_of(settled(path, b"three"), kept) == of(b"three")
    # Another file with the same name, size and time.
    settled(tmp_path / "other", b"thrED").replace(path)
    assert sha256_of(path, kept) == of(b"thrED")
    assert len(list(kept.iterdir())) == 1


def test_what_has_just_been_written_is_not_trusted_to_stay(tmp_path: Path) -> None:
    path, kept = tmp_path / "weights", tmp_path / "kept"
    path.write_bytes(b"one")
    status = path.stat()
    assert sha256_of(path, kept) == of(b"one")
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert sha256_of(path, kept) == of(b"two")


@pytest.mark.parametrize("damage", [b"", b"{", b'{"sha256":"12"}', b"\xff\x00"])
def test_a_damaged_hash_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    path, kept = settled(tmp_path / "weights", b"one"), tmp_path / "kept"
    sha256_of(path, kept)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    for content in (damage, whole.replace(of(b"one").encode(), b"12")):
        file.write_bytes(content)
        assert sha256_of(path, kept) == of(b"one")
        assert file.read_bytes() == whole


def test_where_hashes_cannot_be_kept_they_are_made_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = settled(tmp_path / "weights", b"one")
    (tmp_path / "kept").write_text("no folder")
    assert sha256_of(path, tmp_path / "kept") == of(b"one")
    assert "can't be kept" in caplog.text
