"""How many kernels a step of Dia is, which is what a step on a GPU can't be quicker than."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DiaConfig, DiaForConditionalGeneration

from benchmarks.common import Note, table
from benchmarks.dia_model import begin, reading, where
from dia_server.models.dia.architecture import Architecture
from dia_server.models.dia.decoder import Decoder
from dia_server.models.dia.runtime import Runtime
from dia_server.models.dia.sampling import draw_by_noise, sample
from dia_server.models.dia.weights import take_weights

TITLE = "Dia: kernels"
MEASURED = (
    "Operations of a step of Dia that compute, as PyTorch dispatches them: views and empty tensors are none, and a "
    "norm is the one that it is on a GPU. All layers, of small size, in bfloat16, which changes nothing of it."
)

SMALL = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
}
CROSS = {"cross_num_attention_heads": 4, "cross_num_key_value_heads": 4, "cross_head_dim": 16, "cross_hidden_size": 64}
COMPUTE_NOTHING = {"_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "new_empty"}


class Counting(TorchDispatchMode):
    """Counts kernels while it is on."""

    count = 0
    # Parts of what was counted whole.
    is_inside = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        is_view = any(found.alias_info and not found.alias_info.is_write for found in function._schema.returns)  # noqa: SLF001 - the only place that tells
        self.count += not (self.is_inside or is_view or function.__name__.split(".")[0] in COMPUTE_NOTHING)
        return function(*args, **(kwargs or {}))


def run(note: Note) -> str:
    """Count."""
    note("counting")
    runtime = _runtime()
    decoder: Decoder = runtime._step.__self__  # type: ignore[attr-defined]  # noqa: SLF001 - there are no graphs here
    slots = runtime.slots
    begin(runtime, 0, reading(0, frames=9))
    conditional, unconditional = decoder.logits(1, 1)
    whole, more = (_counted(lambda pages=pages: decoder.step(pages, pages)) for pages in (1, 2))
    layers = _counted(lambda: decoder.logits(1, 1))
    drawn = _counted(lambda: sample(conditional, unconditional, slots.controls, slots.first, 1024, draw_by_noise))
    rows = [
        ["a step over one page of keys and of text", whole],
        ["over two", more],
        ["logits, in 18 layers", layers],
        ["sampling", drawn],
        ["the rest", whole - layers - drawn],
    ]
    return f"On {where()}.\n\n" + table(["", "kernels"], rows)


def _runtime() -> Runtime:
    numbers = {"encoder_config": SMALL, "decoder_config": SMALL | CROSS}
    model = DiaForConditionalGeneration(DiaConfig(**numbers))
    architecture = msgspec.convert({"model_type": "dia"} | numbers, Architecture)
    return Runtime(take_weights(architecture, model.state_dict().__getitem__, torch.device("cpu"), torch.bfloat16), 2)


def _counted(call: Callable[[], object]) -> int:
    with Counting() as counting, _norms_are_one(counting):
        call()
    return counting.count


@contextmanager
def _norms_are_one(counting: Counting) -> Iterator[None]:
    whole = F.rms_norm

    def one(*args: Any) -> torch.Tensor:
        counting.count += 1
        counting.is_inside = True
        try:
            return whole(*args)
        finally:
            counting.is_inside = False

    F.rms_norm = one
    try:
        yield
    finally:
        F.rms_norm = whole
