"""Opinions on speech: `speechmos_rate.py WAV…` prints a JSON list of DNSMOS' overall ones."""

import json
import sys

import librosa
from speechmos import dnsmos

RATE = 16_000


def main() -> None:
    """Print the opinions."""
    opinions = []
    for file in sys.argv[1:]:
        samples, _ = librosa.load(file, sr=RATE)
        opinions.append(float(dnsmos.run(samples.clip(-1, 1), RATE)["ovrl_mos"]))
    print(json.dumps(opinions))


if __name__ == "__main__":
    main()
