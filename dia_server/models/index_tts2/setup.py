"""The model's own settings, those under `models: index-tts2:` in config.yaml, and whether what they name is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import msgspec

from dia_server.errors import ModelUnavailable

VERSIONS = (2, 2.5)


def _said(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class IndexTtsSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where IndexTTS2 is, and how it computes."""

    checkout: Annotated[str, _said("the folder with its code, cloned from github.com/index-tts/index-tts")] = (
        "~/index-tts"
    )
    python: Annotated[
        str, _said("the interpreter of its environment; from `checkout`, where `uv sync` makes this one")
    ] = ".venv/bin/python"
    checkpoints: Annotated[str, _said("the folder with its weights; from `checkout`")] = "checkpoints"
    version: Annotated[float, _said("of the weights: 2 or 2.5; the code has a module for each")] = 2
    fp16: Annotated[bool, _said("compute with 16 bits on a GPU: float16, and bfloat16 in version 2.5")] = False
    use_torch_compile: Annotated[bool, _said("compile what makes the spectrum; the first sentence takes minutes")] = (
        False
    )
    use_deepspeed: Annotated[bool, _said("let DeepSpeed run what makes the codes, if it is installed there")] = False
    use_accel: Annotated[bool, _said("let IndexTTS2's own accelerator run it; needs flash-attention there")] = False
    use_cuda_kernel: Annotated[bool | None, _said("its own kernel for the vocoder; null lets it choose")] = None
    task_seconds: Annotated[
        float,
        msgspec.Meta(gt=0),
        _said("seconds for one segment; then the program counts as hung, whatever it says"),
    ] = 1800.0

    def __post_init__(self) -> None:
        """Refuse other versions.

        Raises:
            ValueError: there is none such.
        """
        if self.version not in VERSIONS:
            raise ValueError("`version` must be 2 or 2.5")

    @property
    def folder(self) -> Path:
        """The checkout."""
        return Path(self.checkout).expanduser().absolute()

    @property
    def interpreter(self) -> Path:
        """The program that runs the adapter."""
        return self.folder / Path(self.python).expanduser()

    @property
    def weights(self) -> Path:
        """The checkpoints."""
        return self.folder / Path(self.checkpoints).expanduser()


def check(setup: Any) -> None:
    """Whether IndexTTS2 is here and seems whole.

    Raises:
        ModelUnavailable: something of it is missing.
    """
    module = setup.folder / "indextts" / f"infer_v{'2_5' if setup.version == 2.5 else 2}.py"  # noqa: PLR2004
    wanted = (
        ("checkout", setup.folder, module, "docs/programs.md says how to set it up"),
        ("python", setup.interpreter, None, "`uv sync` in the checkout makes it"),
        ("checkpoints", setup.weights, setup.weights / "config.yaml", "docs/programs.md says how to fetch them"),
    )
    for name, place, file, advice in wanted:
        there = shutil.which(place) is not None if file is None else file.is_file()
        if not there:
            what = f"is no {place}" if file is None else f"is no {file}"
            raise ModelUnavailable(
                f"there {what}, which `models: index-tts2: {name}` in config.yaml leads to; {advice}"
            )
