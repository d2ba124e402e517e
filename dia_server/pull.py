"""What `dia-server models pull` does."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from dia_server.models import registry
from dia_server.models.download import fetch
from dia_server.settings import Settings

console = Console()


def pull(model: str, settings: Settings) -> None:
    """Fetch what a model has to fetch under these settings and is not here yet.

    Raises:
        ModelNotFound: no such model.
        DownloadFailed: no connection, or not the file that was wanted.
    """
    downloads = registry.manifest(model).downloads(settings)
    missing = [download for download in downloads if not download.path.exists()]
    if not missing:
        console.print(f"{model}: {'all of it is here' if downloads else 'it comes whole with its package'}")
        return
    for download in missing:
        console.print(f"{download.name}: {download.description}, {download.size / 1e6:.1f} MB, {download.licence}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for download in missing:
            bar = progress.add_task(download.name, total=download.size)
            fetch(download, lambda size, bar=bar: progress.advance(bar, size))  # type: ignore[misc]
    console.print(f"{model}: all of it is here")
