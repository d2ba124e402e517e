"""What `dia-server models pull` does."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from dia_server.config_file import Sources
from dia_server.errors import DiaServerError, DownloadFailed
from dia_server.models import hub, registry
from dia_server.models.download import fetch
from dia_server.models.protocol import Download, Manifest, Repository
from dia_server.services.configuration import rewrite
from dia_server.settings import Settings

console = Console(markup=False)


def pull(model: str, settings: Settings, sources: Sources) -> None:
    """Fetch what a model has to fetch under these settings and is not here yet; `sources` are what they were made of.

    Raises:
        ModelNotFound: no such model.
        SettingsError: its own settings are wrong.
        DownloadFailed: no connection, or not the file that was wanted.
        ModelUnavailable: a folder that the settings name is not there, or what is in it, or was fetched, not whole.
    """
    manifest = registry.manifest(model)
    downloads = manifest.downloads(settings)
    repositories = manifest.repositories(registry.setup_of(model, settings.models))
    if not downloads and not repositories:
        console.print(f"{model}: {registry.lacking(model, settings.models) or 'it comes whole with its package'}")
        return
    if missing := [download for download in downloads if not download.path.exists()]:
        _pull_files(missing)
    fetched = _pull_repositories(manifest, repositories, settings, sources)
    manifest.check(registry.setup_of(model, {model: settings.models.get(model, {}) | fetched}))
    console.print(f"{model}: all of it is here")


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _pull_files(missing: list[Download]) -> None:
    for download in missing:
        console.print(f"{download.name}: {download.description}, {download.size / 1e6:.1f} MB, {download.licence}")
    with _bar() as progress:
        for download in missing:
            bar = progress.add_task(download.name, total=download.size)
            fetch(download, lambda size, bar=bar: progress.advance(bar, size))  # type: ignore[misc]


def _pull_repositories(
    manifest: Manifest, repositories: tuple[Repository, ...], settings: Settings, sources: Sources
) -> dict[str, str]:
    """The commits that were fetched, by the settings that record them."""
    wanted = []
    for repository in repositories:
        folder = hub.folder_of(repository)
        if folder is None:
            wanted.append(repository)
        else:
            console.print(
                f"{repository.name}: nothing is fetched, since `models: {manifest.name}: {repository.name}` in "
                f"{sources.file.name} names the folder {folder}"
            )
    if not wanted or _are_here(manifest, wanted):
        return {}
    if missing := manifest.missing_packages():
        raise DownloadFailed(f"{', '.join(missing)} must be installed first: {manifest.installation}")
    try:
        releases = _fetch(wanted)
    except hub.Unreachable as error:
        raise DownloadFailed(f"{error.message}. Check the connection, or {_by_hand(manifest, repositories)}") from None
    commits = {release.repository.setting: release.commit for release in releases}
    _record(manifest.name, commits, settings, sources)
    return commits


def _fetch(wanted: list[Repository]) -> list[hub.Release]:
    # All licences are shown before anything is fetched.
    releases = [hub.look_up(repository) for repository in wanted]
    for release in releases:
        repository, size = release.repository, f"{release.size / 1e6:.1f} MB"
        console.print(
            f"{repository.name}: {repository.source}, commit {release.commit[: hub.SHORT]}, {size}, {release.licence}"
        )
    with _bar() as progress:
        for release in releases:
            bar = progress.add_task(release.repository.name, total=release.size)
            hub.fetch(release, lambda count, bar=bar: progress.update(bar, completed=count))  # type: ignore[misc]
            progress.update(bar, completed=release.size)
    return releases


def _by_hand(manifest: Manifest, repositories: tuple[Repository, ...]) -> str:
    """How to do without the hub."""
    files = ", ".join(repositories[0].files)
    sources = ", ".join(f"{repository.source} as `{repository.name}`" for repository in repositories)
    return (
        f"copy the files ({files}) of each repository into a folder of its own by hand, and name the folders under "
        f"`models: {manifest.name}:` in config.yaml: that of {sources}"
    )


def _are_here(manifest: Manifest, repositories: list[Repository]) -> bool:
    """Whether the recorded commits are here already, which needs no connection to know."""
    if manifest.missing_packages() or not all(repository.revision for repository in repositories):
        return False
    try:
        for repository in repositories:
            hub.locate(manifest.name, repository)
    except DiaServerError:
        return False
    return True


def _record(model: str, revisions: dict[str, str], settings: Settings, sources: Sources) -> None:
    """Write the commits into config.yaml, so that later starts read these and no others."""
    lines = ", ".join(f"{name}: {commit}" for name, commit in revisions.items())
    if winner := sources.winner("models"):
        console.print(f"{winner} sets `models`; add this there, under {model}: {lines}")
        return
    own = settings.models.get(model, {}) | revisions
    try:
        rewrite(sources, {"models": settings.models | {model: own}})
    except (DiaServerError, OSError) as error:
        console.print(f"{sources.file} can't be changed ({error}); add this under `models: {model}:` there: {lines}")
    else:
        console.print(f"recorded in {sources.file}: {lines}")
