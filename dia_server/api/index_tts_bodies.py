"""What clients of IndexTTS2's task API send."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from dia_server.api.fields import Seed
from dia_server.errors import BadInput
from dia_server.services.index_tts import TaskRequest
from dia_server.tasks import EMOTIONS

Weight = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class TaskParams(msgspec.Struct, kw_only=True):
    """The contract's parameters; unknown ones are ignored."""

    text: Annotated[str, msgspec.Meta(description="the text", examples=["Hello world"])]
    spk_audio_prompt: Annotated[
        str,
        msgspec.Meta(
            description="whom to sound like: a path in examples/, audio_prompts/, tasks/ or datasets/, the id of an "
            "audio prompt or a voice, or a data URI with a recording",
            examples=["examples/voice_01.wav"],
        ),
    ]
    emo_vector: Annotated[
        list[Weight] | None,
        msgspec.Meta(description=f"eight weights: {', '.join(EMOTIONS)}; a sum over 0.8 is scaled down to it"),
    ] = None
    emo_audio_prompt: Annotated[
        str | None, msgspec.Meta(description="whose manner to take over, named as in `spk_audio_prompt`")
    ] = None
    emo_alpha: Annotated[Share | None, msgspec.Meta(description="how much of the emotion; 1 is all")] = None
    use_emo_text: Annotated[bool | None, msgspec.Meta(description="take the emotion from `emo_text`")] = None
    emo_text: Annotated[str | None, msgspec.Meta(description="null takes the text itself")] = None
    cfg_value: Positive | None = None
    inference_timesteps: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    normalize: bool | None = None
    denoise: bool | None = None
    retry_badcase: bool | None = None
    retry_badcase_max_times: Annotated[int, msgspec.Meta(ge=0, le=10)] | None = None
    retry_badcase_ratio_threshold: Positive | None = None
    use_random: bool | None = None
    verbose: bool | None = None
    use_torch_compile: bool | None = None
    use_deepspeed: bool | None = None
    seed: Annotated[Seed | None, msgspec.Meta(description="same seed and task, same bytes; null or -1 draws one")] = (
        None
    )
    model: Annotated[str | None, msgspec.Meta(description="a model's name; null takes that of the settings")] = None
    output_path: Annotated[
        str | None, msgspec.Meta(description="where a copy goes: a path in tasks/ or outputs/ that ends in .wav")
    ] = None

    def request(self) -> TaskRequest:
        """What it asks for.

        Raises:
            BadInput: the emotions are not eight.
        """
        if self.emo_vector is not None and len(self.emo_vector) != len(EMOTIONS):
            raise BadInput(
                f"'params.emo_vector' must have {len(EMOTIONS)} weights, not {len(self.emo_vector)}: "
                f"{', '.join(EMOTIONS)}",
                param="emo_vector",
            )
        chosen = {name: value for name in _DEFAULTS if (value := getattr(self, name)) is not None}
        return TaskRequest(
            text=self.text,
            spk_audio_prompt=self.spk_audio_prompt,
            emo_vector=tuple(self.emo_vector or ()),
            emo_audio_prompt=self.emo_audio_prompt,
            emo_alpha=1.0 if self.emo_alpha is None else self.emo_alpha,
            use_emo_text=bool(self.use_emo_text),
            emo_text=self.emo_text,
            seed=None if self.seed == -1 else self.seed,
            model=self.model,
            parameters={name: value for name, value in (_DEFAULTS | chosen).items() if value is not None},
            sent={name for name in self.__struct_fields__ if getattr(self, name) is not None},
        )


# The contract's, which a model gets with those that the client chose; null leaves it to the model.
_DEFAULTS: dict[str, Any] = {
    "cfg_value": 2.0,
    "inference_timesteps": 10,
    "normalize": False,
    "denoise": False,
    "retry_badcase": True,
    "retry_badcase_max_times": 3,
    "retry_badcase_ratio_threshold": 6.0,
    "use_random": False,
    "verbose": False,
    "use_torch_compile": None,
    "use_deepspeed": None,
}


class TaskBody(msgspec.Struct):
    """A task."""

    params: TaskParams
