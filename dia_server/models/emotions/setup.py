"""The model's own settings, those under `models: emotions:` in config.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from dia_server.models.hub import Commit, Source, locate
from dia_server.models.protocol import Repository

Emotion = Literal["happy", "angry", "sad", "afraid", "disgusted", "melancholic", "surprised", "calm"]

FILES = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
)  # fmt: skip

# GoEmotions' 28 labels in the six groups of its authors (D. Demszky et al., "GoEmotions: a dataset of fine-grained
# emotions", ACL 2020), with other names of the same, and those of ours.
_GROUPS: dict[Emotion, str] = {
    "happy": (
        "joy amusement approval excitement gratitude love optimism relief pride admiration desire caring happiness"
    ),
    "angry": "anger annoyance disapproval",
    "sad": "sadness disappointment embarrassment grief remorse",
    "afraid": "fear nervousness fearful",
    "disgusted": "disgust",
    "melancholic": "melancholy",
    "surprised": "surprise realization confusion curiosity",
    "calm": "neutral calmness",
}
LABELS: dict[str, Emotion] = {
    label: emotion for emotion, labels in _GROUPS.items() for label in (emotion, *labels.split())
}


class EmotionsSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which classifier it is, and what its labels mean."""

    source: Annotated[
        Source,
        msgspec.Meta(
            description="a sequence classifier as safetensors: a repository of the Hugging Face hub, or a folder "
            "(`/…`, `~/…`, `./…`)"
        ),
    ] = "SamLowe/roberta-base-go_emotions"
    revision: Annotated[
        Commit | None,
        msgspec.Meta(
            description="the commit of that repository; `dia-server models pull emotions` records the one it fetches"
        ),
    ] = None
    labels: Annotated[
        dict[str, Emotion | None],
        msgspec.Meta(
            description="the emotion that a label of the checkpoint stands for, such as `{bliss: happy}`; null is "
            "none; GoEmotions' labels, `joy`, `neutral` and the like are known"
        ),
    ] = msgspec.field(default_factory=dict)

    @property
    def repository(self) -> Repository:
        """Where the classifier is."""
        return Repository(name="source", source=self.source, revision=self.revision, setting="revision", files=FILES)

    def emotion_of(self, label: str) -> Emotion | None:
        """What a label stands for, whatever its case."""
        meanings = LABELS | {name.lower(): emotion for name, emotion in self.labels.items()}
        return meanings.get(label.lower())


def check(setup: Any) -> None:
    """Whether the classifier is here.

    Raises:
        ModelUnavailable: it is not.
    """
    locate("emotions", setup.repository)


def repositories(setup: Any) -> tuple[Repository, ...]:
    """The one."""
    return (setup.repository,)
