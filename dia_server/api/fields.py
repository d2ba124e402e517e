"""Fields that several families' bodies share, with the contracts' ranges."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request
from litestar.params import Parameter

from dia_server.errors import BadInput
from dia_server.services.plan import SPEEDS

AudioFormat = Literal["wav", "mp3", "opus", "aac", "flac", "pcm"]
Speed = Annotated[float, msgspec.Meta(ge=SPEEDS[0], le=SPEEDS[1], description="pace; the pitch stays", examples=[1.0])]


# Of lists, the newest first.
Limit = Annotated[int, Parameter(ge=1, le=500, description="how many of the newest ones")]
Offset = Annotated[int, Parameter(ge=0, le=2**31, description="how many of them to pass over")]

Seed = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
VoiceSeed = Annotated[int, msgspec.Meta(ge=1, le=999_999)]
Temperature = Annotated[float, msgspec.Meta(ge=0.1, le=2.0)]
CfgScale = Annotated[float, msgspec.Meta(ge=1.0, le=10.0)]
TopP = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
MaxTokens = Annotated[int, msgspec.Meta(ge=100, le=10_000)]


class Sampling(msgspec.Struct, kw_only=True):
    """How the model draws its samples. What a model has no knob for is named in `X-Unused-Parameters`."""

    seed: Annotated[
        Seed | None,
        msgspec.Meta(description="same seed and request, same bytes; null or -1 takes the voice's own, or draws one"),
    ] = None
    voice_seed: Annotated[VoiceSeed | None, msgspec.Meta(description="used when there is no `seed`")] = None
    temperature: Temperature | None = None
    cfg_scale: Annotated[CfgScale | None, msgspec.Meta(description="classifier-free guidance")] = None
    top_p: TopP | None = None
    max_tokens: Annotated[MaxTokens | None, msgspec.Meta(description="model frames, behind which the clip ends")] = None
    use_torch_compile: bool | None = None

    def chosen_seed(self) -> int | None:
        """The request's seed, if it names one."""
        return self.voice_seed if self.seed in (None, -1) else self.seed

    def parameters(self) -> dict[str, Any]:
        """The sampling parameters that are set, by name."""
        return {name: value for name in _PARAMETERS if (value := getattr(self, name)) is not None}


_PARAMETERS = ("temperature", "cfg_scale", "top_p", "max_tokens", "use_torch_compile")


def moment(seconds: float) -> str:
    """Seconds since 1970 as the contracts write a time, such as 2026-01-15T10:30:00.000Z."""
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat(timespec='milliseconds').removesuffix('+00:00')}Z"


def refuse_filters(request: Request[Any, Any, Any]) -> None:
    """For routes that take all there is away: who names some of it means less.

    Raises:
        BadInput: the query names something.
    """
    if request.query_params:
        names = ", ".join(sorted(request.query_params.keys()))[:100]
        raise BadInput(
            f"This takes no filters ({names}), and was not done: it would remove all. Remove single ones by id"
        )
