"""Measure Dia at its full size, with random weights, and write what came out into docs/benchmarks.md.

Nothing is fetched: speed and the equality of bits don't depend on what the weights say. It takes a GPU where there is
one, and 12 GB of memory. The peer is `transformers`, which holds the same weights in the same run; the floor is the
time in which this machine's memory can be read once by as many bytes as a step needs.
"""

from __future__ import annotations

from bench import DIA_NAMES, main

EXAMPLES = """\
examples:
  python scripts/bench_dia.py                        everything: 12 minutes on two cores
  python scripts/bench_dia.py dia_speed --dry-run    show the section, write nothing
"""

if __name__ == "__main__":
    main(DIA_NAMES, str(__doc__), EXAMPLES)
