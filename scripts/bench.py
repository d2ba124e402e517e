"""Measure the server, and write what came out into docs/benchmarks.md.

Each benchmark has a section there; those that don't run now keep theirs. The figures that count are ratios and
differences to a peer or a floor measured in the same run, so that a slower machine moves both sides. Close other
programs first: everything here runs on the same cores. What only a benchmark needs (LitServe, piper, Resemblyzer,
speechmos) is installed once, into environments of its own in the user's cache folder, about 2 GB in all.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.text import Text

from benchmarks.common import Benchmark, machine

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
NAMES = (
    "overhead",
    "requests",
    "piper",
    "encoders",
    "fairness",
    "replay",
    "slow_readers",
    "overload",
    "jobs",
    "tasks",
    "footprint",
    "words",
    "marks",
    "voices",
    "transcription",
    "cloning",
    "emotions",
    "manners",
)
# They take gigabytes and minutes, and say most on a GPU: `bench_dia.py` runs them.
DIA_NAMES = ("dia_speed", "dia_codec", "dia_streams", "dia_kernels", "dia_equality")
EXAMPLES = """\
examples:
  make bench                                  everything, about 20 minutes
  make bench ARGS="overhead replay"           these two
  python scripts/bench.py encoders --dry-run  show the section, write nothing
"""
INTRODUCTION = """\
# Benchmarks

Every figure with the command that prints it; `make bench` measures all of them here and writes this page. Numbers in
seconds belong to the machine named beside them; ratios and differences are to a peer or a floor that ran in the same
minute, in turns. What listeners make of the sound is told by programs: Whisper tiny.en writes down what it hears, and
Resemblyzer tells speakers apart.
"""

console = Console(stderr=True)


def load(name: str) -> Benchmark:
    """A benchmark by its name."""
    module: Benchmark = import_module(f"benchmarks.{name}")
    return module


def benchmark_command(name: str) -> str:
    """What runs one benchmark."""
    return f"python scripts/bench_dia.py {name}" if name in DIA_NAMES else f"make bench ARGS={name}"


def section(name: str) -> str:
    """Run one benchmark; its section of the page, without the heading."""
    benchmark = load(name)
    with console.status("") as status:
        body = benchmark.run(lambda text: status.update(Text(f"{name}: {text}")))
    return "\n\n".join(
        [
            benchmark.MEASURED,
            f"`{benchmark_command(name)}` on {machine()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC:",
            body.strip(),
        ]
    )


def read_sections(page: Path) -> dict[str, str]:
    """What stands under each second-level heading of the page."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    _, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}


def write_sections(page: Path, sections: dict[str, str]) -> None:
    """The page anew: benchmarks in their order, then what others wrote."""
    order = [load(name).TITLE for name in (*NAMES, *DIA_NAMES)]
    titles = [title for title in order if title in sections] + [title for title in sections if title not in order]
    bodies = [f"## {title}\n\n{sections[title]}\n" for title in titles]
    page.write_text("\n".join([INTRODUCTION, *bodies]), encoding="utf-8")


def arguments(names: Sequence[str], description: str, examples: str) -> argparse.Namespace:
    """What the command line says."""
    lines = [f"  {name:14}{load(name).MEASURED}" for name in names]
    parser = argparse.ArgumentParser(
        description=description,
        epilog="\n".join(["benchmarks:", *lines, "", examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="name", help="what to measure [everything]")
    parser.add_argument("--dry-run", action="store_true", help="print the sections, leave docs/benchmarks.md alone")
    given = parser.parse_args()
    if unknown := set(given.names) - set(names):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return given


def main(names: Sequence[str], description: str, examples: str) -> None:
    """Run the benchmarks that were asked for; a failed one leaves its section as it was, and the others run."""
    given = arguments(names, description, examples)
    failed = []
    for name in given.names or names:
        started = time.monotonic()
        try:
            body = section(name)
        except Exception:  # noqa: BLE001 - shown below; the other benchmarks don't depend on it
            console.print_exception()
            failed.append(name)
            continue
        print(f"## {load(name).TITLE}\n\n{body}\n", flush=True)
        console.print(f"{name}: done in {time.monotonic() - started:.0f} s", style="green")
        if not given.dry_run:
            write_sections(PAGE, read_sections(PAGE) | {load(name).TITLE: body})
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(NAMES, str(__doc__), EXAMPLES)
