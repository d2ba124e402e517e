"""The settings: the one place where each, its default, its meaning and how it is changed stand.

config.yaml and docs/configuration.md are generated from it by scripts/settings_reference.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints

import msgspec

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
Origin = Annotated[str, msgspec.Meta(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/*\s]+(:\*)?)$(?!\n)")]
# Less would keep out the very request that asks for more.
LEAST_BYTES, LEAST_PATIENCE = 1_024, 0.1

# Why a setting counts from the next start on.
_BOUND = "the server listens already"
_STARTED = "they are started with the server"
_STARTED_WITH = "the workers are started with it"
_OPENED = "the database is open already"


def _meta(description: str, *, restart: str = "", secret: bool = False) -> msgspec.Meta:
    """What a setting means; `restart` says why it counts from the next start on, a secret is never shown."""
    return msgspec.Meta(description=description, extra={"restart": restart, "secret": secret})


class Lane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Worker processes that share their work and are delayed by no other lane."""

    models: Annotated[
        tuple[str, ...], _meta("models that these workers run; the default one, or else the first, is loaded at start")
    ] = ("dia", "hibari", "noise")
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
        _meta(
            "auto takes GPUs, if any are used and the model that is loaded at start can compute there; cpu never does"
        ),
    ] = "auto"
    task_timeout: Annotated[
        Seconds | None, _meta("seconds that somebody may wait for one task; null takes `segment_timeout`")
    ] = None

    def __post_init__(self) -> None:
        # As a constraint on the field it would spoil the OpenAPI document: Litestar takes `...` for a type there.
        if not self.models:
            raise ValueError("`models` must name at least one")


class Tasks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who speaks the tasks of IndexTTS2's API, and where."""

    run_in_server: Annotated[
        bool,
        _meta(
            "let the server run tasks itself, where it runs jobs at all; false leaves them to `dia-server worker`",
            restart="it is decided with the start",
        ),
    ] = True
    model: Annotated[
        str,
        _meta(
            "the model of tasks that name none; auto is `index-tts2` if `models` sets it up, or else the default one "
            "if it imitates recordings, or else hibari"
        ),
    ] = "auto"


def patient_lane(model: str) -> Lane:
    """A lane for one large model, which is there on need: a minute to load and, on a small GPU, ten for a sentence."""
    return Lane(models=(model,), idle_timeout=600.0, task_timeout=1800.0)


# Lanes that are there even if the settings name others only.
HELPERS: dict[str, Lane] = {
    # Untrusted files are decoded in a process that holds nothing else. It starts in half a second, and takes 60 MB.
    "decode": Lane(models=("decoder",), idle_timeout=60.0),
    # The timeout is enough to write down half an hour at three times its pace.
    "tools": Lane(models=("whisper", "emotions"), threads=2, idle_timeout=300.0, task_timeout=600.0),
    "index-tts2": patient_lane("index-tts2"),
    "voxcpm": patient_lane("voxcpm"),
}


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything an admin can set.

    A server has one of these, which `adopt` changes: whoever reads it when it is needed, and keeps no copy, is up to
    date.
    """

    host: Annotated[
        str,
        msgspec.Meta(min_length=1),
        _meta("address to listen on; 0.0.0.0 opens the server to the network", restart=_BOUND),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        msgspec.Meta(ge=0, le=65535),
        _meta("port to listen on; 0 takes a free one and prints it", restart=_BOUND),
    ] = 7860
    cors_origins: Annotated[
        tuple[Origin, ...],
        _meta(
            "pages that browsers let read the answers, by scheme, host and port; the port may be `*`, which stands for "
            "none too; `*` alone is every page; `[]` is none"
        ),
    ] = ("http://localhost:*", "https://localhost:*", "http://127.0.0.1:*", "https://127.0.0.1:*")
    api_keys: Annotated[
        tuple[Key, ...],
        _meta("keys that clients send as `Authorization: Bearer …` or `X-API-Key`; `[]` takes everyone", secret=True),
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
    engine: Annotated[
        str,
        _meta(
            "the default model: a model's name, or `auto` for the best that can run here, found out at the start; set "
            "while the server runs, `auto` stays with the one named at the start, if that can run"
        ),
    ] = "auto"
    models: Annotated[
        dict[str, dict[str, Any]],
        _meta("settings of the models' own, by the model's name, such as `{dia: {slots: 8}}`", restart=_STARTED_WITH),
    ] = msgspec.field(default_factory=dict)
    unknown_models: Annotated[
        Literal["default", "refuse"],
        _meta(
            "what a request for a model that is not installed gets: the default model with a `Warning` header, or 404"
        ),
    ] = "default"
    voice_aliases: Annotated[dict[str, str], _meta("other names for voices; `{}` makes every unknown name a 404")] = (
        msgspec.field(default_factory=OPENAI_VOICES.copy)
    )
    lanes: Annotated[dict[str, Lane], msgspec.Meta(min_length=1), _meta("the worker processes", restart=_STARTED)] = (
        msgspec.field(default_factory=lambda: {"speech": Lane(processes=2)} | HELPERS)
    )
    gpu_mode: Annotated[
        Literal["auto", "single", "multi", "cpu"],
        _meta(
            "auto takes all allowed GPUs, and the processor where there are none; multi takes all and single the first "
            "one, and neither starts without; cpu looks for none",
            restart=_STARTED_WITH,
        ),
    ] = "auto"
    allowed_gpus: Annotated[
        tuple[int, ...] | None,
        _meta(
            "the GPUs that may be used, by their numbers in `dia-server doctor`; null allows all", restart=_STARTED_WITH
        ),
    ] = None
    workers_per_gpu: Annotated[
        Positive,
        _meta(
            "worker processes on each GPU; each loads the model anew, so more than one only where memory is ample",
            restart=_STARTED_WITH,
        ),
    ] = 1

    max_input_characters: Annotated[Positive, _meta("longest text of one request")] = 4096
    max_audio_seconds: Annotated[
        Seconds,
        _meta(
            "longest clip; the longest text takes five minutes, at a quarter of the speed twenty; more is refused, or "
            "where it is streamed, the connection is cut"
        ),
    ] = 1800.0
    max_pause_seconds: Annotated[Seconds, _meta("silence that one text may ask for by [pause:…] marks, in all")] = 30.0
    max_body_bytes: Annotated[
        int, msgspec.Meta(ge=LEAST_BYTES), _meta("largest JSON body; the longest text, escaped, fits many times")
    ] = 262_144
    max_task_body_bytes: Annotated[
        int,
        msgspec.Meta(ge=LEAST_BYTES),
        _meta("largest JSON body of POST /tts, which may bring a recording along: the largest upload in base64 fits"),
    ] = 36_700_160
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
        int,
        msgspec.Meta(ge=LEAST_BYTES),
        _meta("largest request line with all headers; what browsers send is a tenth"),
    ] = 65_536
    request_timeout: Annotated[
        float,
        msgspec.Meta(ge=LEAST_PATIENCE),
        _meta(
            "seconds in which a request must have arrived, head and body; whoever takes longer only holds a connection"
        ),
    ] = 60.0
    upload_timeout: Annotated[
        Seconds,
        _meta(
            "the same for uploads of files, in JSON too; in 300 s the largest one arrives over 0.7 Mbit/s, as JSON 1.0"
        ),
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
    encoder_threads: Annotated[
        Positive, _meta("threads that encode audio; mp3 costs as much CPU as the speech", restart=_STARTED)
    ] = 2

    database_url: Annotated[
        str,
        _meta(
            "where jobs and the log of clips are kept: empty is `dia-server.db` in the home, a SQLite file; or "
            "`postgresql://user:password@host/database`",
            restart=_OPENED,
            secret=True,
        ),
    ] = ""
    database_timeout: Annotated[
        Seconds,
        _meta("seconds that a request waits for a busy database before it is a 503 with Retry-After", restart=_OPENED),
    ] = 5.0
    run_jobs_in_server: Annotated[
        bool,
        _meta(
            "let the server run jobs itself, behind its listeners; `dia-server worker` adds processes that do",
            restart="it is decided with the start",
        ),
    ] = True
    max_pending_jobs: Annotated[Positive, _meta("jobs that may wait; one more is a 503 with Retry-After")] = 20_000
    job_lease_seconds: Annotated[
        float,
        msgspec.Meta(ge=3),
        _meta("seconds after which a job whose runner has not been heard of is run again by another one"),
    ] = 30.0
    job_max_attempts: Annotated[
        Positive, _meta("runners that may be lost over a job before it fails; restarts don't count")
    ] = 5
    index_tts: Annotated[
        Tasks,
        _meta("the tasks of IndexTTS2's API", restart="it is decided with the start"),
    ] = Tasks()
    task_timeout_seconds: Annotated[
        Seconds, _meta("seconds that one task of IndexTTS2's API may take, loading included; a slow GPU needs many")
    ] = 3600.0
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

    emotion_model: Annotated[
        str | None,
        _meta(
            "what tells the emotion of a text, where a request wants that: null is a list of words, which needs "
            "nothing; `emotions` is a classifier, an extra"
        ),
    ] = None

    save_outputs: Annotated[
        bool,
        _meta(
            "keep every clip in `outputs/`, with a file beside it from which `dia-server say --from` makes the same "
            "bytes again"
        ),
    ] = False
    show_prompts: Annotated[
        bool, _meta("show the texts that were spoken in `GET /logs` and in the log; otherwise they are empty there")
    ] = False
    output_retention_hours: Annotated[
        Seconds | None,
        _meta("hours for which saved clips and the rows of `GET /logs` are kept; null keeps them for ever"),
    ] = 24.0

    debug_mode: Annotated[bool, _meta("send X-Generation-ID and log at debug level")] = False
    log_format: Annotated[
        Literal["auto", "console", "json"],
        _meta("auto is console on a terminal and JSON elsewhere", restart="the log has begun in one format"),
    ] = "auto"

    def __post_init__(self) -> None:
        if self.min_prompt_seconds > self.max_prompt_seconds:
            raise ValueError("`min_prompt_seconds` is more than `max_prompt_seconds`, so that no recording would do")

    def lane_of(self, model: str) -> str | None:
        """The first lane that runs the model, if one does."""
        return next((name for name, lane in self.lanes.items() if model in lane.models), None)

    def adopt(self, changes: Mapping[str, Any]) -> None:
        """Take over other values, which are known to be valid, in one step."""
        for name, value in changes.items():
            setattr(self, name, value)


def _extra(key: str) -> dict[str, Any]:
    """What `_meta` says of the settings of which it says something."""
    hints = get_type_hints(Settings, include_extras=True)
    said = {name: meta.extra[key] for name, hint in hints.items() for meta in hint.__metadata__ if meta.extra}
    return {name: value for name, value in said.items() if value}


# Why settings can't be changed while the server runs, by their names.
RESTART: dict[str, str] = _extra("restart")
SECRETS = frozenset(_extra("secret"))
