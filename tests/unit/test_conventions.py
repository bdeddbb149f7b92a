"""Conventions: files and functions that can be read at once, short names of tests, and their imports from
`tests/support` alone.
"""

import ast
from collections.abc import Iterator

from tests.support.repository import ROOT

LONGEST_NAME = 70
LONGEST_FILE, LONGEST_FUNCTION = 350, 45  # lines
LONGEST_LINE = 110
GENERATED = "_pb2.py"
ROOMS = ("benchmarks", "docs", "examples", "handlers", "loadtest", "marina", "tests", "training")
# what has a fallback where there is no Linux; handlers import nothing of marina, and the last one runs alone
LINUX_ALONE = {
    "handlers/runtime/machine.py": ("sched_getaffinity", "/proc/"),
    "marina/core/processes.py": ("/proc/",),
    "marina/core/exec_with_parent.py": ("prctl",),
}
FILES = sorted((ROOT / "tests").rglob("*.py"))
WRITTEN = [
    file
    for room in ROOMS
    for file in sorted((ROOT / room).rglob("*.py"))
    if not file.name.endswith(GENERATED)
]


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


def too_long(text: str) -> list[str]:
    """What has too many lines: the file, and functions in it."""
    found = ["the file"] if len(text.splitlines()) > LONGEST_FILE else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            found += [node.name] if lines > LONGEST_FUNCTION else []
    return found


def test_lines_have_at_most_110_columns_in_bytes_too() -> None:
    """Some tools count bytes."""
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in WRITTEN
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if len(line.encode()) > LONGEST_LINE
    ]

    assert found == []


def test_files_have_at_most_350_lines_and_functions_45() -> None:
    found = {str(file.relative_to(ROOT)): too_long(file.read_text(encoding="utf-8")) for file in WRITTEN}

    assert len(WRITTEN) > 400
    assert {file: names for file, names in found.items() if names} == {}


def test_names_are_short_and_imports_come_from_support_alone() -> None:
    """No test has a name of more than 70 characters; no test imports from another or from a conftest."""
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))

        assert (file, long_names(tree)) == (file, [])
        assert (file, foreign_imports(tree)) == (file, [])


def test_what_only_linux_has_is_called_in_modules_with_a_fallback_alone() -> None:
    """The cores and the processor, processes, and the end with a parent."""
    found = {}
    for room in ("handlers", "marina", "training", "loadtest"):
        for file in sorted((ROOT / room).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if names := tuple(name for name in ("sched_getaffinity", "/proc/", "prctl") if name in text):
                found[str(file.relative_to(ROOT))] = names

    assert found == LINUX_ALONE


def test_violations_are_found() -> None:
    """Planted faults: a long name, imports from a conftest and from a test in a script, too many lines."""
    planted = (
        f"def test_{'x' * 66}(): pass\n"
        "from TESTS.conftest import home\n"
        "from TESTS.support.repository import ROOT\n"
        "SCRIPT = '''\n  from TESTS.unit.test_one import served\n'''\n"
    )
    tree = ast.parse(planted.replace("TESTS", "tests"))

    assert long_names(tree) == [f"test_{'x' * 66}"]
    assert foreign_imports(tree) == ["tests.conftest.home", "tests.unit.test_one.served"]
    assert too_long("def f():\n" + 45 * "    x = 1\n") == ["f"]
    assert too_long("x = 1\n" * 351) == ["the file"]
