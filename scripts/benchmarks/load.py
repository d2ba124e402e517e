"""Listeners in a process of their own: `load.py PORT CLIENTS SECONDS BODY` prints JSON."""

from __future__ import annotations

import json
import sys

import uvloop

from dia_server.listener import OK, Answer, Limit, Target, listen


async def main(port: int, count: int, seconds: float, body: bytes) -> None:
    """Load the server, and print what came of it."""
    answers: list[Answer] = []
    taken = await listen(
        Target.of(f"http://127.0.0.1:{port}"),
        body,
        clients=count,
        limit=lambda: Limit(seconds=seconds),
        heard=lambda answer: answers.append(answer._replace(body=b"")),
    )
    result = {
        "seconds": taken,
        "totals": [answer.seconds for answer in answers],
        "errors": sum(answer.status != OK for answer in answers),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4].encode()))
