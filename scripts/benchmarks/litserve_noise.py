"""LitServe doing what the server does with `noise`: `litserve_noise.py PORT`, in an environment of its own.

The same numbers, drawn the same way, as the same wav file; one worker process, one HTTP process.
"""

import struct
import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Response

SAMPLE_RATE = 44_100
CHARACTERS_PER_SECOND = 15


class Noise(litserve.LitAPI):
    """Seeded noise, as long as the text."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: dict[str, Any]) -> tuple[str, int]:
        return request["input"], request["seed"]

    def predict(self, task: tuple[str, int]) -> np.ndarray:
        text, seed = task
        count = round(len(text) / CHARACTERS_PER_SECOND * SAMPLE_RATE)
        return np.random.default_rng(seed).standard_normal(count, dtype=np.float32) * np.float32(0.1)

    def encode_response(self, samples: np.ndarray) -> Response:
        data = np.rint(np.clip(samples, -1, 1) * np.float32(32767)).astype("<i2").tobytes()
        head = (b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16, b"data")
        return Response(struct.pack("<4sI4s4sIHHIIHH4sI", *head, len(data)) + data, media_type="audio/wav")


if __name__ == "__main__":
    api = Noise(api_path="/v1/audio/speech")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
