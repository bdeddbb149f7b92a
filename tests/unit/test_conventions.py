"""Conventions of all tests: short names, and imports from `tests/support` alone."""

import ast
from collections.abc import Iterator

from tests.support.repository import ROOT

LONGEST_NAME = 70
FILES = sorted((ROOT / "tests").rglob("*.py"))


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """The dotted names that a module imports, and those in scripts that it hands to other processes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            lines = (line.strip() for line in node.value.splitlines())
            words = [line.split() for line in lines if line.startswith(("from tests", "import tests"))]
            yield from (f"{found[1]}.{found[3]}" if found[0] == "from" else found[1] for found in words)


def long_names(tree: ast.Module) -> list[str]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        function.name
        for function in functions
        if function.name.startswith("test_") and len(function.name) > LONGEST_NAME
    ]


def foreign_imports(tree: ast.Module) -> list[str]:
    modules = imported_modules(tree)
    return [name for name in modules if name.startswith("tests.") and not name.startswith("tests.support.")]


def test_names_are_short_and_imports_come_from_support_alone() -> None:
    """No test has a name of more than 70 characters; no test imports from another or from a conftest."""
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))

        assert (file, long_names(tree)) == (file, [])
        assert (file, foreign_imports(tree)) == (file, [])


def test_violations_are_found() -> None:
    """Planted faults: a long name, an import from a conftest, and one from a test within a script."""
    planted = (
        f"def test_{'x' * 66}(): pass\n"
        "from TESTS.conftest import home\n"
        "from TESTS.support.repository import ROOT\n"
        "SCRIPT = '''\n  from TESTS.unit.test_one import served\n'''\n"
    )
    tree = ast.parse(planted.replace("TESTS", "tests"))

    assert long_names(tree) == [f"test_{'x' * 66}"]
    assert foreign_imports(tree) == ["tests.conftest.home", "tests.unit.test_one.served"]
