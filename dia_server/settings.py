"""The settings: config.yaml in the home, then `DIA_SERVER_…` environment variables, then the command line.

`Settings` is the one place where a setting, its default and its meaning stand; config.yaml and
docs/configuration.md are generated from it by scripts/settings_reference.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from dia_server.errors import SettingsError

ENVIRONMENT_PREFIX = "DIA_SERVER_"

OPENAI_VOICES = {
    "alloy": "raven", "ash": "robin", "ballad": "owl", "coral": "jay", "echo": "heron", "fable": "owl",
    "nova": "skylark", "onyx": "heron", "sage": "swan", "shimmer": "jay", "verse": "robin", "marin": "skylark",
    "cedar": "heron",
}  # fmt: skip

# As openai-whisper names them.
WhisperSize = Literal[
    "tiny.en", "tiny", "base.en", "base", "small.en", "small", "medium.en", "medium",
    "large-v1", "large-v2", "large-v3", "large", "large-v3-turbo", "turbo",
]  # fmt: skip

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
# What an `Authorization` header can carry as a bearer's token.
Key = Annotated[str, msgspec.Meta(pattern=r"^[!-~]+$")]
Origin = Annotated[str, msgspec.Meta(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/*\s]+(:\*)?)$")]


def _meta(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class Lane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Worker processes that share their work and are delayed by no other lane."""

    models: Annotated[
        tuple[str, ...],
        msgspec.Meta(min_length=1),
        _meta("models that these workers run; the first is loaded at start"),
    ] = ("hibari", "noise")
    processes: Annotated[
        Positive,
        _meta(
            "number of worker processes; never changes what a seed sounds like; where GPUs are used, a lane without "
            "`idle_timeout` has `workers_per_gpu` on each instead"
        ),
    ] = 1
    threads: Annotated[Positive, _meta("threads per worker; part of the fingerprint, so it changes low bits")] = 1
    idle_timeout: Annotated[
        Seconds | None,
        _meta("seconds without work after which a worker ends, to be started on need; null keeps it always"),
    ] = None
    device: Annotated[
        Literal["auto", "cpu"],
        _meta("auto takes GPUs, if any are used and the first model can compute there; cpu never does"),
    ] = "auto"
    task_timeout: Annotated[
        Seconds | None, _meta("seconds that somebody may wait for one task; null takes `segment_timeout`")
    ] = None


# Lanes that are there even if the settings name others only.
HELPERS: dict[str, Lane] = {
    # Untrusted files are decoded in a process that holds nothing else. It starts in half a second, and takes 60 MB.
    "decode": Lane(models=("decoder",), idle_timeout=60.0),
    # The timeout is enough to write down half an hour at three times its pace.
    "tools": Lane(models=("whisper",), threads=2, idle_timeout=300.0, task_timeout=600.0),
}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an admin can set."""

    host: Annotated[
        str, msgspec.Meta(min_length=1), _meta("address to listen on; 0.0.0.0 opens the server to the network")
    ] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535), _meta("port to listen on; 0 takes a free one and prints it")] = (
        7860
    )
    cors_origins: Annotated[
        tuple[Origin, ...],
        _meta(
            "pages that browsers let read the answers, by scheme, host and port; the port may be `*`, which stands for "
            "none too; `*` alone is every page; `[]` is none"
        ),
    ] = ("http://localhost:*", "https://localhost:*", "http://127.0.0.1:*", "https://127.0.0.1:*")
    api_keys: Annotated[
        tuple[Key, ...],
        _meta("keys that clients send as `Authorization: Bearer …` or `X-API-Key`; `[]` takes everyone"),
    ] = ()
    protect_lists: Annotated[
        bool, _meta("want a key for the lists of models and voices too; some clients send none there")
    ] = False
    requests_per_minute: Annotated[
        Positive | None,
        _meta(
            "speech requests that a key, or without keys an address, may make in a minute, at once or spread; one "
            "more is a 429 with Retry-After; null is no limit"
        ),
    ] = None
    engine: Annotated[str, _meta("the default model: a model's name, or `auto` for the best that runs here")] = "auto"
    unknown_models: Annotated[
        Literal["default", "refuse"],
        _meta(
            "what a request for a model that is not installed gets: the default model with a `Warning` header, or 404"
        ),
    ] = "default"
    voice_aliases: Annotated[dict[str, str], _meta("other names for voices; `{}` makes every unknown name a 404")] = (
        msgspec.field(default_factory=OPENAI_VOICES.copy)
    )
    lanes: Annotated[dict[str, Lane], msgspec.Meta(min_length=1), _meta("the worker processes")] = msgspec.field(
        default_factory=lambda: {"speech": Lane(processes=2)} | HELPERS
    )
    gpu_mode: Annotated[
        Literal["auto", "single", "multi", "cpu"],
        _meta(
            "auto takes all allowed GPUs, and the processor where there are none; multi takes all and single the first "
            "one, and neither starts without; cpu looks for none"
        ),
    ] = "auto"
    allowed_gpus: Annotated[
        tuple[int, ...] | None,
        _meta("the GPUs that may be used, by their numbers in `dia-server doctor`; null allows all"),
    ] = None
    workers_per_gpu: Annotated[
        Positive,
        _meta("worker processes on each GPU; each loads the model anew, so more than one only where memory is ample"),
    ] = 1

    max_input_characters: Annotated[Positive, _meta("longest text of one request")] = 4096
    max_audio_seconds: Annotated[
        Seconds,
        _meta("longest clip; the longest text takes five minutes, at a quarter of the speed twenty; more is cut off"),
    ] = 1800.0
    max_pause_seconds: Annotated[Seconds, _meta("silence that one text may ask for by [pause:…] marks, in all")] = 30.0
    max_body_bytes: Annotated[Positive, _meta("largest JSON body; the longest text, escaped, fits many times")] = (
        262_144
    )
    max_upload_bytes: Annotated[
        Positive, _meta("largest uploaded recording; a minute in CD quality has 11 MB, and clients promise 25")
    ] = 26_214_400
    max_voice_sample_bytes: Annotated[
        Positive, _meta("largest recording for POST /v1/audio/voices; OpenAI takes as much")
    ] = 10_485_760
    max_uploads: Annotated[
        Positive, _meta("uploads open at once; bounds disk and memory; one more is a 503 with Retry-After")
    ] = 8
    min_prompt_seconds: Annotated[
        Seconds, _meta("shortest recording of a voice, without the silence around it; less tells nothing of a voice")
    ] = 1.0
    max_prompt_seconds: Annotated[
        Seconds, _meta("longest recording of a voice; more makes speech slower, hardly more alike")
    ] = 60.0
    max_transcript_characters: Annotated[
        Positive, _meta("longest transcript of a recording; a minute of quick speech has 1,200")
    ] = 2_000
    max_head_bytes: Annotated[
        Positive, _meta("largest request line with all headers; what browsers send is a tenth")
    ] = 65_536
    request_timeout: Annotated[
        Seconds,
        _meta(
            "seconds in which a request must have arrived, head and body; whoever takes longer only holds a connection"
        ),
    ] = 60.0
    upload_timeout: Annotated[
        Seconds,
        _meta("the same for uploads of files; in 300 s the largest one arrives over 0.7 Mbit/s"),
    ] = 300.0
    write_timeout: Annotated[
        Seconds,
        _meta(
            "seconds that the rest of an answer may wait behind full buffers before the client loses the connection; "
            "leaves time to pause a player, but not to keep one of max_clips for good"
        ),
    ] = 300.0
    segment_characters: Annotated[
        Positive,
        _meta(
            "longest segment, about 20 s of speech, or more of numbers; bounds waiting; changes what a seed sounds like"
        ),
    ] = 250
    max_queue: Annotated[Positive, _meta("requests that may wait for a worker; one more is a 503 with Retry-After")] = (
        100
    )
    max_clips: Annotated[
        Positive, _meta("requests open at once, waiting and slow readers included; bounds memory; one more is a 503")
    ] = 256
    read_ahead: Annotated[
        int, msgspec.Meta(ge=0), _meta("segments made beyond the one being heard; bounds a clip's memory")
    ] = 2
    segment_timeout: Annotated[Seconds, _meta("seconds a listener may wait for one segment")] = 60.0
    load_timeout: Annotated[Seconds, _meta("seconds a worker may take to load a model before it is killed")] = 180.0
    beat_timeout: Annotated[
        Seconds | None, _meta("seconds without progress before a worker is killed; null takes each model's own bound")
    ] = None
    task_strikes: Annotated[
        Positive,
        _meta("deaths of a worker without progress on a task that end the task; protects the pool from poison"),
    ] = 3
    crash_loop_deaths: Annotated[
        Positive, _meta("deaths in a row before the first finished task that make a worker's place wait")
    ] = 5
    crash_loop_wait: Annotated[Seconds, _meta("seconds such a place waits before each new try")] = 30.0
    drain_grace: Annotated[Seconds, _meta("seconds that running requests get to end after SIGTERM")] = 30.0
    encoder_threads: Annotated[Positive, _meta("threads that encode audio; mp3 costs as much CPU as the speech")] = 2

    database_url: Annotated[
        str,
        _meta(
            "where jobs and the log of clips are kept: empty is `dia-server.db` in the home, a SQLite file; or "
            "`postgresql://user:password@host/database`"
        ),
    ] = ""
    database_timeout: Annotated[
        Seconds, _meta("seconds that a request waits for a busy database before it is a 503 with Retry-After")
    ] = 5.0
    run_jobs_in_server: Annotated[
        bool, _meta("let the server run jobs itself, behind its listeners; `dia-server worker` adds processes that do")
    ] = True
    max_pending_jobs: Annotated[Positive, _meta("jobs that may wait; one more is a 503 with Retry-After")] = 20_000
    job_lease_seconds: Annotated[
        Seconds, _meta("seconds after which a job whose runner has not been heard of is run again by another one")
    ] = 30.0
    job_max_attempts: Annotated[
        Positive, _meta("runners that may be lost over a job before it fails; restarts don't count")
    ] = 5
    job_retention_hours: Annotated[
        Seconds, _meta("hours that a finished job's result is kept; the job itself stays listed as long again")
    ] = 24.0

    auto_discover_prompts: Annotated[
        bool,
        _meta(
            "look every second for recordings that were put into `audio_prompts/` by hand, or replaced there, and take "
            "note of them"
        ),
    ] = True
    auto_transcribe: Annotated[
        bool,
        _meta(
            "let Whisper, where it is installed, write down recordings without a transcript in the background: "
            "uploaded ones, and those taken note of"
        ),
    ] = True
    whisper_model_size: Annotated[
        WhisperSize,
        _meta(
            "the weights that listen, fetched on first use (`dia-server models pull whisper` fetches them before): "
            "75 MB for tiny to 3 GB for large; `.en` knows English only; tiny.en comes with the package"
        ),
    ] = "base"
    whisper_strict: Annotated[
        bool, _meta("answer 503 where those weights can't be fetched; otherwise tiny.en stands in, and answers say so")
    ] = False
    max_transcription_seconds: Annotated[
        Seconds, _meta("longest recording that a request may have written down; bounds the worker's memory and time")
    ] = 1800.0

    save_outputs: Annotated[
        bool,
        _meta(
            "keep every clip in `outputs/`, with a sidecar, which has the text, and from which `dia-server say --from` "
            "makes the same bytes"
        ),
    ] = False
    show_prompts: Annotated[bool, _meta("keep the texts of clips in `GET /logs`")] = False
    output_retention_hours: Annotated[
        Seconds | None,
        _meta("hours that saved outputs and the rows of `GET /logs` are kept; null keeps them for good"),
    ] = 24.0
    debug_mode: Annotated[bool, _meta("send X-Generation-ID and log at debug level")] = False
    log_format: Annotated[
        Literal["auto", "console", "json"], _meta("auto is console on a terminal and JSON elsewhere")
    ] = "auto"

    def lane_of(self, model: str) -> str | None:
        """The first lane that runs the model, if one does."""
        return next((name for name, lane in self.lanes.items() if model in lane.models), None)


def load_settings(
    file: Path | None, environment: Mapping[str, str] = os.environ, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from a YAML file (absent: defaults), the environment and overrides, the later ones winning.

    Environment values are read as YAML, so `DIA_SERVER_LANES='{speech: {models: [hibari], processes: 4}}'` works.

    Raises:
        SettingsError: a file that can't be read, an unknown field, or a value out of range; the message names it.
    """
    merged: dict[str, Any] = {}
    if file is not None and file.exists():
        merged |= _read_yaml_mapping(file)
    for name, text in environment.items():
        # Compose files set what is unset to nothing.
        if name.startswith(ENVIRONMENT_PREFIX) and text:
            merged[name.removeprefix(ENVIRONMENT_PREFIX).lower()] = _parse_yaml(text, name)
    merged |= overrides or {}
    try:
        settings = msgspec.convert(merged, Settings)
        helpers = {name: lane for name, lane in HELPERS.items() if name not in settings.lanes}
        return msgspec.structs.replace(settings, lanes=settings.lanes | helpers)
    except msgspec.ValidationError as error:
        where = (
            f"{file}, the environment ({ENVIRONMENT_PREFIX}…)" if file else f"the environment ({ENVIRONMENT_PREFIX}…)"
        )
        raise SettingsError(f"Invalid settings in {where} or the command line: {error}") from None


def _read_yaml_mapping(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"Can't read {file}: {error}") from None
    content = _parse_yaml(text, str(file))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{file} must hold `name: value` lines, not a {type(content).__name__}")
    return content


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # Its own words quote the line, which may hold a key.
        mark = error.problem_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SettingsError(f"{where} is not valid YAML{place}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{where} is not valid YAML: {error}") from None
