"""The layout of the repository: a module's name is said once, and tests share code through `tests/support` alone."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_data import REPOSITORY

TESTS = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "tests").rglob("*.py"))
BENCHMARKS = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "benchmarks").rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    """Yield the dotted name of every module that a file imports anywhere, `from a import b` as both a and a.b."""
    for node in ast.walk(ast.parse((REPOSITORY / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_test_module(name: str) -> bool:
    last = name.rpartition(".")[2]
    return name.startswith("tests.") and (last.startswith("test_") or last == "conftest")


def test_no_two_modules_have_one_name() -> None:
    names = Counter(path.stem for path in (REPOSITORY / "ssem_dask").rglob("*.py"))
    assert {name: count for name, count in names.items() if count > 1 and not name.startswith("__")} == {}


@pytest.mark.parametrize("path", [*TESTS, *BENCHMARKS], ids=str)
def test_no_module_imports_a_test_module(path: Path) -> None:
    assert [name for name in imported_modules(path) if is_test_module(name)] == []


@pytest.mark.parametrize("path", [*TESTS, *BENCHMARKS], ids=str)
def test_no_module_imports_a_private_name(path: Path) -> None:
    names = [name.rpartition(".")[2] for name in imported_modules(path)]
    assert [name for name in names if name.startswith("_") and name not in ("__main__", "__version__")] == []


@pytest.mark.parametrize("path", [p for p in TESTS if p.parts[1] == "support"], ids=str)
def test_support_imports_no_folder_of_tests(path: Path) -> None:
    imported = [name for name in imported_modules(path) if name.startswith("tests.")]
    assert [name for name in imported if not name.startswith("tests.support")] == []
