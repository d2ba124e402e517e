"""What both versions have in common: they note what they are called with, and draw their noise from all dice."""

import json
import os
import random
import time
import wave

import numpy as np
import torch


def note(**fields):
    """Add a line to the file that the test reads."""
    print(">> what libraries print")
    with open(os.environ["INDEX_TTS_MARK"], "a") as file:
        file.write(json.dumps(fields) + "\n")


def speak(network, text, path):
    """A second of noise; of a slow text, the network computes for longer than a beat takes."""
    for _ in range(12 if "slow" in text else 1):
        time.sleep(0.1)
        network(torch.zeros(1, 2))
    drawn = torch.rand(22_050).numpy() + np.random.rand(22_050) + random.random()
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, 22_050, 0, "NONE", ""))
        file.writeframes((drawn * 5_000).astype("<i2").tobytes())


def network():
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
