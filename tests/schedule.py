"""Which tests run one after the other in one process: a file's, and those of files that share what is slow to start."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

# By the fixture that they share.
TOGETHER = {"listening": {"test_discovery", "test_prompts", "test_transcription"}}


class Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        stem = PurePath(file).stem
        return next((fixture for fixture, stems in TOGETHER.items() if stem in stems), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """In place of `--dist loadfile`."""
    return Scheduling(config, log)
