"""Speaker embeddings: `resemblyzer_embed.py WAV…` prints a JSON list for each file, in an environment of its own."""

import json
import sys
import warnings

import soundfile

warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

from resemblyzer import VoiceEncoder, preprocess_wav  # noqa: E402 - the warning comes with the import


def main() -> None:
    """Print the embeddings."""
    encoder = VoiceEncoder("cpu", verbose=False)
    embeddings = []
    for file in sys.argv[1:]:
        samples, rate = soundfile.read(file, dtype="float32")
        embeddings.append(encoder.embed_utterance(preprocess_wav(samples, source_sr=rate)).tolist())
    print(json.dumps(embeddings))


if __name__ == "__main__":
    main()
