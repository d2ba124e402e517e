"""docs/contracts/: what a page says of a contract, a test shows; and no test of a contract is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FOLDER = TESTS.parent / "docs" / "contracts"
# Each page, and the files whose tests are all about it.
PAGES = pytest.mark.parametrize(
    ("page", "files"),
    [("dia.md", "test_contract_dia_*.py"), ("index-tts2.md", "test_contract_index_tts*.py")],
)
LINK = re.compile(r"\[`(\w+)`\]\[(\w+)\]")
TARGET = re.compile(r"^\[(\w+)\]: (\S+\.py)$", re.MULTILINE)


def named(page: str) -> set[tuple[str, str]]:
    """The tests that a page names, each with its file."""
    text = (FOLDER / page).read_text(encoding="utf-8")
    files = {label: (FOLDER / target).resolve() for label, target in TARGET.findall(text)}
    assert {file.parent for file in files.values()} == {TESTS}
    return {(files[label].name, name) for name, label in LINK.findall(text)}


def written_in(file: Path) -> set[tuple[str, str]]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    functions = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {(file.name, name) for name in functions if name.startswith("test_")}


@PAGES
def test_every_line_of_the_contract_has_a_test(page: str, files: str) -> None:
    del files
    for table in (
        (FOLDER / page).read_text(encoding="utf-8").split("| The contract | Here | Test |\n| --- | --- | --- |\n")[1:]
    ):
        for line in table.partition("\n\n")[0].splitlines():
            assert LINK.search(line.rpartition(" | ")[2]), line


@PAGES
def test_every_test_that_the_page_names_is_there(page: str, files: str) -> None:
    del files
    there = {test for file, _ in named(page) for test in written_in(TESTS / file)}
    assert named(page) - there == set()


@PAGES
def test_the_page_names_every_test_of_the_contract(page: str, files: str) -> None:
    there = {test for file in TESTS.glob(files) for test in written_in(file)}
    assert there - named(page) == set()
