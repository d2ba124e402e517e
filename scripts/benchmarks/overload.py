"""Whether a server that gets many more requests than it takes still answers, and is itself again afterwards."""

from __future__ import annotations

import json
import subprocess
import time

from benchmarks.common import (
    TEN_WORDS,
    Client,
    Note,
    Server,
    goal,
    lanes,
    ms,
    running_server,
    speech,
    table,
    under_load,
)
from dia_server.bench import percentile

TITLE = "Overload"
MEASURED = (
    "500 and 2,000 clients at once (hibari, 10 words, two workers, a queue of 32), who try again a second after a "
    "refusal: the time of `GET /health` over a connection of its own meanwhile, and the first byte of a wav before and "
    "after."
)

CLIENTS = (500, 2000)
STORM_SECONDS = 10.0
PAUSE_SECONDS = 0.02
REQUESTS = 100
HEALTH_GOALS = {0.5: 0.05, 0.99: 0.1}
RECOVERY_GOAL = 1.1
# The clips that were begun end, and the connections close.
SETTLE_SECONDS = 2.0


def run(note: Note) -> str:
    """Measure."""
    with running_server({**lanes("hibari", processes=2), "max_queue": 32}) as server:
        return "\n\n".join(level(server, clients, note) for clients in CLIENTS)


def level(server: Server, clients: int, note: Note) -> str:
    """Measure with so many clients."""
    body = speech(TEN_WORDS, "wav")
    note("calm")
    before = first_bytes(server.port, body)
    note(f"{clients} clients")
    with under_load(server.port, body, clients=clients, seconds=STORM_SECONDS) as storm:
        health = health_times(server)
        served, refused = outcome(storm)
    time.sleep(SETTLE_SECONDS)
    note("afterwards")
    after = first_bytes(server.port, body)
    rows = [
        ["first byte before", *(ms(percentile(before, share)) for share in (0.5, 0.95, 0.99))],
        ["`/health` meanwhile", *(ms(percentile(health, share)) for share in (0.5, 0.95, 0.99))],
        ["first byte afterwards", *(ms(percentile(after, share)) for share in (0.5, 0.95, 0.99))],
    ]
    change = percentile(after, 0.95) / percentile(before, 0.95)
    return "\n\n".join(
        [
            f"**{clients:,} clients**",
            table(["", "p50", "p95", "p99"], rows),
            f"The storm had {served} clips and {refused} refusals (503); {len(health)} answers of `/health`.",
            *(
                goal(
                    f"`/health` answers within {most * 1e3:.0f} ms (p{share * 100:.0f})",
                    ms(percentile(health, share)),
                    met=percentile(health, share) < most,
                )
                for share, most in HEALTH_GOALS.items()
            ),
            goal(
                "the first byte's p95 afterwards is within 10 % of before",
                f"x {change:.2f}",
                met=change < RECOVERY_GOAL,
            ),
        ]
    )


def first_bytes(port: int, body: bytes) -> list[float]:
    """Seconds until the first audio, of many requests over one connection."""
    client = Client(port)
    seconds = [client.first_byte(body) for _ in range(REQUESTS + 1)][1:]
    client.close()
    return seconds


def health_times(server: Server) -> list[float]:
    """Seconds of `GET /health`, again and again while the storm lasts."""
    seconds: list[float] = []
    over = time.perf_counter() + STORM_SECONDS
    while (started := time.perf_counter()) < over:
        server.get("/health")
        seconds.append(time.perf_counter() - started)
        time.sleep(PAUSE_SECONDS)
    return seconds


def outcome(storm: subprocess.Popen[bytes]) -> tuple[int, int]:
    """How many clips and refusals the clients got."""
    output, _ = storm.communicate()
    result = json.loads(output)
    return len(result["totals"]) - result["errors"], result["errors"]
