"""Steps replayed from CUDA graphs, which spares the processor a thousand launches each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import torch

# A step for so many pages of keys and of text.
Step = Callable[[int, int], None]

_WARM_UPS = 3


class Graphs:
    """One graph for each number of pages, all captured beforehand; they share their memory.

    A step has no other inputs than the tensors of its slots, so that a replay needs no copies, and capturing changes
    nothing as long as no slot is active.
    """

    def __init__(self, step: Step, pages: Iterable[int], text_pages: Iterable[int]) -> None:
        """Takes seconds; every number of pages that will be asked for has to be named."""
        # Replays read its tensors where they were at the capture, and nobody else may hold them.
        self._step = step
        # One for all, since cuBLAS keeps memory for each stream that it has seen.
        stream, memory = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        # The largest first, in whose memory the others find room.
        all_sizes = sorted(product(pages, text_pages), reverse=True)
        self._graphs = {sizes: _captured(step, *sizes, stream, memory) for sizes in all_sizes}

    def __call__(self, pages: int, text_pages: int) -> None:
        self._graphs[pages, text_pages].replay()


def _captured(
    step: Step, pages: int, text_pages: int, stream: torch.cuda.Stream, memory: tuple[int, int]
) -> torch.cuda.CUDAGraph:
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            step(pages, text_pages)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=memory, stream=stream):
        step(pages, text_pages)
    return graph
