"""Weights from the Hugging Face hub: fetched once, on request, and read from its cache in the home ever after."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec

from dia_server.errors import DownloadFailed, ModelUnavailable
from dia_server.models.hashes import sha256_of
from dia_server.models.protocol import Repository

# Names as the hub takes them, and folders as shells write them.
Source = Annotated[str, msgspec.Meta(pattern=r"^(~?/|\.{1,2}/|[A-Za-z]:).|^[\w.-]+/[\w.-]+$")]
Commit = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]

# Where the hashes of files in folders are kept, if the home has not said.
HASHES = Path.home() / ".cache" / "dia-server" / "hashes"
# Of a commit, so many hex digits tell it from all others.
SHORT = 12


class Unreachable(DownloadFailed):
    """The hub doesn't answer, or not to the end."""


class Release(msgspec.Struct, frozen=True):
    """What the hub has of a repository: a commit, its licence, and the bytes of the files that are needed."""

    repository: Repository
    commit: str
    licence: str
    files: dict[str, int]

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(self.files.values())


def folder_of(repository: Repository) -> Path | None:
    """The folder that the settings name; None where they name a repository."""
    source = repository.source
    is_folder = source.startswith((".", "~")) or Path(source).is_absolute()
    return Path(source).expanduser() if is_folder else None


def locate(model: str, repository: Repository) -> Path:
    """The folder of a model's repository on this machine; nothing is fetched.

    Raises:
        ModelUnavailable: it is not here, or half of it is; the message says what to do.
    """
    folder = folder_of(repository)
    if folder is not None:
        if not folder.is_dir():
            raise ModelUnavailable(
                f"the folder {folder}, which `models: {model}: {repository.name}` in config.yaml names, is not there; "
                "correct the name, or copy the files there"
            )
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    what, patterns = f"its {repository.name} ({repository.source})", list(repository.files)
    try:
        found = snapshot_download(
            repository.source, revision=repository.revision, allow_patterns=patterns, local_files_only=True
        )
        return Path(found)
    except IncompleteSnapshotError:
        raise ModelUnavailable(f"{what} are only half here; `dia-server models pull {model}` gets the rest") from None
    except LocalEntryNotFoundError:
        commit = f" at commit {repository.revision[:SHORT]}" if repository.revision else ""
        raise ModelUnavailable(f"{what} are not here{commit}; fetch them: `dia-server models pull {model}`") from None


@contextmanager
def advising(model: str, repository: Repository) -> Iterator[None]:
    """Add to what is found wrong with the files of a model's repository what to do about it.

    Raises:
        ModelUnavailable: something was.
    """
    try:
        yield
    except ModelUnavailable as error:
        setting = f"`models: {model}: {repository.name}` in config.yaml"
        advice = f"{setting} names this folder: copy its files there again, or name another"
        if folder_of(repository) is None:
            kept = locate(model, repository).parent.parent
            advice = (
                f"{setting} names {repository.source}: if that is right, delete {kept} and fetch it again by "
                f"`dia-server models pull {model}`"
            )
        raise ModelUnavailable(f"{error.message}; {advice}") from None


def revision_of(repository: Repository, folder: Path) -> str:
    """What names the contents of a repository's folder: the commit, or a hash of all that is read."""
    if folder.parent.name == "snapshots":
        return folder.name
    return contents_of(path for pattern in repository.files for path in folder.glob(pattern))


def contents_of(paths: Iterable[Path]) -> str:
    """A hash of files and their names, in whichever order they are given."""
    kept = Path(os.environ.get("DIA_HASHES", HASHES))
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(sha256_of(path, kept)))
    return digest.hexdigest()


def look_up(repository: Repository) -> Release:
    """Ask the hub for the recorded commit, or else for the newest one.

    Raises:
        Unreachable: it doesn't answer.
        DownloadFailed: it has no such thing.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    try:
        found = HfApi().model_info(repository.source, revision=repository.revision, files_metadata=True)
    except Exception as error:  # noqa: BLE001 - the library lets its HTTP client's many kinds through
        raise _failed(repository, error) from None
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or []}
    files = {name: sizes[name] for name in filter_repo_objects(sizes, allow_patterns=list(repository.files))}
    if not found.sha or not any(name.endswith(".safetensors") for name in files):
        raise DownloadFailed(f"{repository.source} holds no weights as safetensors; name another repository")
    licence = getattr(found.card_data, "license", None) or "no licence named"
    return Release(repository, found.sha, str(licence), files)


def fetch(release: Release, progress: Callable[[int], None]) -> None:
    """Fetch what is missing of a release; `progress` is told how many bytes of it have come so far.

    A cut connection is taken up where it broke; files that are whole are not fetched again.

    Raises:
        Unreachable: the connection is gone for good, or the disk is full.
        DownloadFailed: the hub doesn't give it out.
    """
    from huggingface_hub import snapshot_download
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        """Counts for `progress` what the library would draw: bytes from the network, and bytes on the disk."""

        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts = options.get("unit") == "B"
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self._counts:
                progress(round(self.n))

    # Its warnings of each new try would tear the bar.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    source, patterns = release.repository.source, list(release.repository.files)
    try:
        snapshot_download(source, revision=release.commit, allow_patterns=patterns, tqdm_class=Bar)
    except Exception as error:  # noqa: BLE001 - as above
        raise _failed(release.repository, error) from None


def _failed(repository: Repository, error: Exception) -> DownloadFailed:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    source = repository.source
    if isinstance(error, GatedRepoError):
        advice = f"accept its terms at https://huggingface.co/{source}, and set HF_TOKEN to a token of yours"
    elif isinstance(error, RepositoryNotFoundError):
        advice = "there is no such repository, or it is private: then set HF_TOKEN to a token of yours"
    elif isinstance(error, RevisionNotFoundError):
        advice = f"it has no commit {repository.revision}; correct `{repository.setting}` in config.yaml"
    else:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return Unreachable(f"Can't fetch {source} from the Hugging Face hub: {reason[0]}")
    return DownloadFailed(f"Can't fetch {source} from the Hugging Face hub: {advice}")
