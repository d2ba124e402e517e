"""The command line. Heavy imports happen inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dia_server import __version__
from dia_server.errors import DiaServerError, SettingsError

if TYPE_CHECKING:
    from dia_server.config_file import Sources
    from dia_server.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(click.Group):
    """A group whose commands answer an expected error with its message and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DiaServerError as error:
            raise click.ClickException(error.message) from None


def home_option(command: Command) -> Command:
    """The options that name the home and its settings."""
    command = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="Settings file [home/config.yaml]",
    )(command)
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(),
        help="Directory with config.yaml and voices/ [the current one]",
    )(command)


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="dia-server")
def main() -> None:
    """A self-hosted speech server that OpenAI's clients use by changing one URL.

    \b
    Examples:
      dia-server serve                                  start on http://localhost:7860
      dia-server say "Good morning!" -o morning.mp3     speak without a server
      dia-server doctor                                 check this installation
      dia-server bench --clients 1,4,16                 measure a running server
    """


@main.command(context_settings=CONTEXT)
@home_option
@click.option("--host", help="Address to listen on; 0.0.0.0 opens the server to the network [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 takes a free one and prints it [7860]")
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes of the speech lane, without GPUs [2]")
def serve(home: Path, config: Path | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Start the server.

    \b
    Examples:
      dia-server serve
      dia-server serve --home ~/speech --port 0
      dia-server serve --host 0.0.0.0 --workers 4
    """
    from dia_server import logs
    from dia_server.home import open_home
    from dia_server.serve import serve as run

    given = {"host": host, "port": port}
    settings = _settings(home, config, workers=workers, **given)
    logs.configure(settings)
    run(settings, _sources(home, config, **given), open_home(home))


@main.command(context_settings=CONTEXT)
@home_option
@click.option("--workers", type=click.IntRange(min=1), help="Worker processes of the speech lane [2]")
def worker(home: Path, config: Path | None, workers: int | None) -> None:
    """Run jobs that servers accepted, without HTTP; as many on a machine as you like.

    It shares a server's home, on the same machine. With PostgreSQL (`database_url`) and a home on a shared disk, it may
    be on another one. Stop it at any time: what it has not finished is run again, and gives the same bytes.

    \b
    Examples:
      dia-server worker --home ~/speech
      DIA_SERVER_DATABASE_URL=postgresql://dia:secret@db/dia dia-server worker --workers 4
    """
    from dia_server import logs
    from dia_server.home import open_home
    from dia_server.worker import work

    settings = _settings(home, config, workers=workers)
    logs.configure(settings)
    work(settings, open_home(home))


@main.command(context_settings=CONTEXT)
@home_option
@click.argument("text", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write")
@click.option(
    "--from",
    "sidecar",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Make a saved clip again, from the .json file beside it; it needs no TEXT, and all but --srt is as it was",
)
@click.option("--voice", default="skylark", show_default=True)
@click.option("--model", help="A name from `dia-server models`, or one of OpenAI's [the default one]")
@click.option("--speed", type=click.FloatRange(0.25, 4.0), default=1.0, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Same seed, same bytes [drawn and shown]")
@click.option("--instructions", default="", help='How to say it, such as "cheerful and quick"; see docs/directing.md')
@click.option("--srt", type=click.Path(path_type=Path, dir_okay=False), help="Captions to write besides")
def say(
    home: Path,
    config: Path | None,
    text: str | None,
    output: Path,
    sidecar: Path | None,
    srt: Path | None,
    model: str | None,
    **wanted: Any,
) -> None:
    """Speak TEXT into a file, without a server. `-` reads the text from standard input.

    The file's name says the format: .wav .mp3 .opus .aac .flac .pcm

    \b
    Examples:
      dia-server say "Good morning!" -o morning.mp3
      dia-server say "[S1] Ready? [S2] Always." -o talk.wav --seed 7
      dia-server say "It was a quiet night." -o night.mp3 --instructions "in a whisper"
      dia-server say - -o chapter.flac --srt chapter.srt < chapter.txt
      dia-server say --from outputs/20260115-103000-1a2b3c4d.json -o again.wav
    """
    import msgspec

    from dia_server import logs
    from dia_server import say as saying
    from dia_server.models import registry
    from dia_server.services.plan import SpeechRequest

    settings = _settings(home, config, workers=1)
    logs.configure(settings, logging.WARNING)
    if sidecar is not None and text is None:
        saying.say_again(settings, home, sidecar, output, srt)
        return
    if text is None or sidecar is not None:
        raise click.UsageError("Say what to speak: either TEXT or --from")
    if text == "-":
        text = sys.stdin.read()
    if model in registry.speaking():
        # To servers' clients `dia` is the default model; here it is itself.
        settings = msgspec.structs.replace(settings, engine=model)
    request = SpeechRequest(text=text, format=output.suffix.removeprefix(".").lower(), model=model or "dia", **wanted)
    saying.say(settings, home, request, output, srt)


def _counts(_context: click.Context, _option: click.Parameter, text: str) -> list[int]:
    """Numbers of clients."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise click.BadParameter(f"'{text}' is no list of numbers from 1 on; give one like 1,4,16")
    return counts


@main.command(context_settings=CONTEXT)
@click.argument("url", default="http://localhost:7860")
@click.option(
    "--clients", callback=_counts, default="1,4,16", show_default=True, help="Listeners at once, one level each"
)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="How long a level asks"
)
@click.option("--requests", type=click.IntRange(min=1), help="Requests of a level, in place of --seconds")
@click.option("--text", default="The morning train to the coast leaves at half past.", show_default=True)
@click.option("--voice", default="alloy", show_default=True)
@click.option("--model", default="tts-1", show_default=True)
@click.option("--format", "response_format", default="pcm", show_default=True, help="wav mp3 opus aac flac pcm")
@click.option("--api-key", envvar="DIA_API_KEY", help="Key, where the server wants one [$DIA_API_KEY]")
@click.option(
    "--json", "output", type=click.Path(path_type=Path, dir_okay=False), help="File to write the figures to, besides"
)
def bench(
    url: str,
    clients: list[int],
    seconds: float,
    requests: int | None,
    text: str,
    api_key: str | None,
    output: Path | None,
    **wanted: str,
) -> None:
    """Measure a speech server at URL, this one or any other with OpenAI's POST /v1/audio/speech.

    So many listeners ask again as soon as they have their clip; the table tells when the first byte came and when the
    last one, the real-time factor (seconds that a clip took per second of audio), and what all of them got a second.
    Answers other than 200 are counted, never sent again; who gets one waits for as long as its Retry-After says.

    \b
    Examples:
      dia-server bench
      dia-server bench http://speech.lan:7860 --clients 1,8,64 --seconds 30
      dia-server bench https://speech.example.org/v1 --requests 20 --format mp3 --json figures.json
    """
    from dia_server import bench as measuring
    from dia_server.listener import Target

    wanted["input"] = text
    measuring.bench(Target.of(url, api_key), wanted, clients=clients, requests=requests, seconds=seconds, output=output)


@main.group(cls=Commands, context_settings=CONTEXT, invoke_without_command=True)
@home_option
@click.pass_context
def models(ctx: click.Context, home: Path, config: Path | None) -> None:
    """List the models: what they are, whether they run here, and their licence.

    \b
    Examples:
      dia-server models
      dia-server models pull hibari                     fetch what else there is of a model
    """
    if ctx.invoked_subcommand is None:
        from dia_server import report

        report.show_models(_settings(home, config))


@models.command(context_settings=CONTEXT)
@home_option
@click.argument("model")
def pull(home: Path, config: Path | None, model: str) -> None:
    """Fetch the weights of MODEL that don't come with it, into the home's cache; their licence is shown first.

    \b
    Examples:
      dia-server models pull hibari
      dia-server models pull whisper                    the size that config.yaml names
      dia-server models pull dia                        6 GB; the commit is written into config.yaml
    """
    from dia_server import pull as pulling

    pulling.pull(model, _settings(home, config), _sources(home, config))


@main.command(context_settings=CONTEXT)
@home_option
def doctor(home: Path, config: Path | None) -> None:
    """Check this installation, and say what to do about what is wrong; the exit status is 1 if anything is.

    \b
    Example:
      dia-server doctor --home ~/speech
    """
    from dia_server import report

    if not report.check(_settings(home, config), home):
        raise SystemExit(1)


def _sources(home: Path, config: Path | None, **overrides: Any) -> Sources:
    from dia_server.config_file import Sources

    given = {name: value for name, value in overrides.items() if value is not None}
    return Sources(config or home / "config.yaml", dict(os.environ), given)


def _settings(home: Path, config: Path | None, *, workers: int | None = None, **overrides: Any) -> Settings:
    import msgspec

    from dia_server.config_file import load_settings
    from dia_server.home import use_caches
    from dia_server.models import registry

    use_caches(home.resolve())
    settings = load_settings(*_sources(home, config, **overrides))
    registry.register(settings.models)
    if workers is not None:
        if "speech" not in settings.lanes:
            raise SettingsError("--workers counts those of the lane 'speech', and config.yaml has no such lane")
        speech = msgspec.structs.replace(settings.lanes["speech"], processes=workers)
        settings = msgspec.structs.replace(settings, lanes=settings.lanes | {"speech": speech})
    return settings
