"""Counters and histograms for `/metrics`, in Prometheus' default registry of the HTTP process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SHORT = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

REQUESTS = Counter("dia_requests", "HTTP requests by route and status", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "dia_request_seconds", "Seconds from request to the end of the answer", ["route"], buckets=_SHORT
)

STREAMS = Counter("dia_streams", "Clips by how they ended: completed, aborted (client left) or failed", ["outcome"])
FIRST_AUDIO_SECONDS = Histogram(
    "dia_first_audio_seconds", "Seconds from a clip's start to its first encoded byte", buckets=_SHORT
)
AUDIO_SECONDS = Counter("dia_audio_seconds", "Seconds of audio made", ["model"])
REAL_TIME_FACTOR = Histogram(
    "dia_real_time_factor",
    "Seconds that a whole clip took, its reader included, per second of its audio",
    ["model"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
FINDINGS = Counter("dia_findings", "Segments by what their model found wrong with their sound", ["model", "finding"])
CLIPS = Gauge("dia_clips", "Clips open, those that wait for a worker or for their reader included")
CLIPS_WAITING = Gauge("dia_clips_waiting", "Clips of which no worker has begun anything")

JOBS = Gauge("dia_jobs", "Jobs by status, when this is read", ["kind", "status"])

LOOP_LAG = Histogram(
    "dia_event_loop_lag_seconds",
    "Seconds that a timer of the event loop was late",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
)
QUEUED = Gauge("dia_queue_segments", "Segments waiting for a slot", ["lane"])
SLOTS = Gauge("dia_slots", "Slots of the workers that are up", ["lane"])
BUSY = Gauge("dia_slots_busy", "Slots at work", ["lane"])
WORKERS = Gauge("dia_workers", "Workers that are up", ["lane"])
DEATHS = Counter("dia_worker_deaths", "Worker processes that died or were killed, each followed by a restart", ["lane"])
REPLAYS = Counter("dia_replays", "Segments run again after their worker's death", ["lane"])
MISMATCHES = Counter("dia_replay_mismatches", "Replays that differed from the samples already delivered", ["lane"])

# A rate is only seen from the second value on: these are 0 before anything has happened.
for _outcome in ("completed", "aborted", "failed"):
    STREAMS.labels(_outcome)
