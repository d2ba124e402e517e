"""The engine: tokens in, a probability for each label out, and those of an emotion together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from dia_server.errors import ModelUnavailable
from dia_server.models.emotions.setup import EmotionsSetup
from dia_server.models.fingerprint import fingerprint
from dia_server.models.hub import locate, revision_of
from dia_server.models.protocol import Engine, Sequential
from dia_server.tasks import EMOTIONS, Classify, Done, Event

# What stands for "no limit" among tokenizers is larger.
LONGEST = 512

log = logging.getLogger(__name__)


def load(threads: int, setup: EmotionsSetup) -> Engine:
    """Load the classifier.

    Raises:
        ModelUnavailable: it isn't here, is none, or has no label that stands for an emotion.
    """
    torch.set_num_threads(threads)
    # What it draws and warns of would stand in the log beside our own words for it.
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    folder = locate("emotions", setup.repository)
    classifier = Classifier(folder, setup)
    name = fingerprint(
        "emotions",
        packages=("torch", "transformers"),
        revision=revision_of(setup.repository, folder),
        dtype="float32",
        threads=threads,
        slots=Sequential.slots,
    )
    return Sequential(classifier.run, name)


class Classifier:
    """A checkpoint, and what its labels stand for."""

    def __init__(self, folder: Path, setup: EmotionsSetup) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            ).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelUnavailable(
                f"there is no usable classifier in {folder} ({reason}); fetch it with `dia-server models pull emotions`"
            ) from None
        labels = [str(self._model.config.id2label[number]) for number in range(self._model.config.num_labels)]
        self._emotions = [setup.emotion_of(label) for label in labels]
        unknown = [label for label, emotion in zip(labels, self._emotions, strict=True) if emotion is None]
        if len(unknown) == len(labels):
            raise ModelUnavailable(
                f"none of its labels ({', '.join(labels)}) stands for an emotion; say which do by `labels` under "
                "`models: emotions:` in config.yaml"
            )
        if unknown:
            log.info("labels that stand for no emotion: %s", ", ".join(unknown))
        self._takes_several = self._model.config.problem_type == "multi_label_classification"
        self._longest = min(self._tokenizer.model_max_length, LONGEST)

    def run(self, task: Classify) -> Iterator[Event]:
        """The task's only event."""
        yield Done(samples=0, value=self._weights(task.text))

    def _weights(self, text: str) -> list[float]:
        tokens = self._tokenizer(text, truncation=True, max_length=self._longest, return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**tokens).logits[0]
        shares = torch.sigmoid(logits) if self._takes_several else torch.softmax(logits, 0)
        weights = dict.fromkeys(EMOTIONS, 0.0)
        for emotion, share in zip(self._emotions, shares.tolist(), strict=True):
            if emotion is not None:
                weights[emotion] += share
        total = max(1.0, sum(weights.values()))
        return [weight / total for weight in weights.values()]
