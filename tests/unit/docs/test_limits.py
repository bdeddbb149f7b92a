"""Nothing waits for ever: calls that wait have a limit, and every limit is on its page."""

import ast
import re
import sys
from collections.abc import Iterator

import pytest

from tests.support.repository import ROOT

ROOMS = ("handlers", "training", "marina", "loadtest", "benchmarks")
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
SAID = "# no limit: "  # in the line of a call or in the three above it, with the reason
PROGRAMS = {"run", "call", "check_call", "check_output"}
WAITS = {"wait", "join", "communicate"}
LIMIT = re.compile(r"(MAX|MOST)_\w+|\w+_(SECONDS|BYTES|LIMIT)|LARGEST_\w+")
# intervals, sizes of what is made here, and borders between two ways; none of them ends anything foreign
OTHERS = {
    *("CHECK_SECONDS", "ALIVE_SECONDS", "REPORT_SECONDS", "LOG_CHECK_SECONDS", "LOG_BYTES", "LINGER_SECONDS"),
    *("HEALTHY_SECONDS", "SILENT_SECONDS", "KILL_SECONDS", "GRACE_SECONDS"),
    *(
        "AGAIN_SECONDS",
        "KEEP_ALIVE_SECONDS",
        "TOKEN_MARGIN_SECONDS",
        "TOKEN_SPREAD_SECONDS",
        "BASE_SECONDS",
        "LONGEST_SECONDS",
    ),
    *("WORTH_SHARING_SECONDS", "WORTH_READING_APART_SECONDS", "WORTH_A_THREAD_SECONDS", "MARKER_SECONDS"),
    *("NOTICE_SECONDS", "END_SECONDS", "FINISH_SECONDS", "STOP_SECONDS", "START_SECONDS", "DESCRIBE_SECONDS"),
    *("UNPACK_SECONDS", "AHEAD_BYTES", "FREE_BYTES", "HEADER_BYTES", "SAMPLE_BYTES", "SAMPLED_BYTES"),
    *("LARGE_BYTES", "READ_BYTES", "MAX_SAVED_BYTES", "MOST_BODY_BYTES", "MAX_BATCH", "MAX_SAMPLES"),
    *("MAX_CALLS", "MAX_DEPTH", "MAX_NESTED", "MAX_CLASSES", "MOST_STEPS", "MOST_DIGITS", "MOST_THREADS"),
    *("MOST_INSPECTED", "MAX_PIXELS", "LARGEST_OVERLAY", "LARGEST_GRID", "MAX_SECONDS", "KIT_SECONDS"),
    *("LOADER_SECONDS", "HEARTBEAT_SECONDS", "MAX_DIMENSIONS", "MAX_SIZE", "SLICE_BYTES"),
    *("STEP_SECONDS", "BUFFER_BYTES", "BUSY_SECONDS", "TIMER_SECONDS", "MOST_ROWS", "MOST_SEEN", "MOST_BITS"),
    *("MOST_COMPARED", "MOST_PIXELS", "POLL_SECONDS", "RENEW_SECONDS", "CLEAN_SECONDS", "LEASE_SECONDS"),
    *("ORPHAN_SECONDS", "FRESH_SECONDS", "WATCH_SECONDS", "GOLDEN_SECONDS", "UPSCALE_SECONDS"),
    *("DOWNSCALE_SECONDS", "OBJECT_STORE_BYTES", "MOST_PROXY_THREADS"),
    *("MOST_NEAREST", "MOST_LABELS", "MOST_LABELS_TOGETHER"),
    *("DEFAULT_STARTUP_SECONDS", "DEFAULT_RESPONSE_SECONDS", "QUIET_SECONDS", "REPLICAS_SECONDS"),
    *("MOST_CHUNKS", "MOST_CHANNELS", "LEAST_SECONDS", "DRAWN_SECONDS", "KEPT_BYTES", "MOST_FILE_BYTES"),
    *("MOST_LISTED", "DEFAULT_SECONDS", "AGAIN_SECONDS", "SHOT_SECONDS"),
}


def waiting_calls(source: str) -> Iterator[str]:
    """The calls of a module that may wait without a limit and say no reason."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, names = node.func.attr, {keyword.arg for keyword in node.keywords}
        of_subprocess = isinstance(node.func.value, ast.Name) and node.func.value.id == "subprocess"
        is_waiting = (
            (of_subprocess and name in PROGRAMS and "timeout" not in names)
            or (name in WAITS and not node.args and not node.keywords)
            or (name == "flock" and "LOCK_NB" not in ast.dump(node) and "LOCK_UN" not in ast.dump(node))
            or (name == "urlopen" and "timeout" not in names)
        )
        near = "\n".join(lines[max(0, node.lineno - 4) : node.lineno])
        if is_waiting and SAID not in near and "asyncio.timeout(" not in near:
            yield ast.unparse(node)[:80]


def test_every_wait_has_a_limit_or_a_reason() -> None:
    """The reason stands in a comment, `# no limit: …`."""
    found = {str(file): list(waiting_calls(file.read_text(encoding="utf-8"))) for file in FILES}

    assert not {file: calls for file, calls in found.items() if calls}


def test_waits_without_a_limit_are_found() -> None:
    """Planted faults, beside their sound forms."""
    planted = (
        "subprocess.run(['x'])\nprocess.wait()\nthread.join()\nprocess.communicate()\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\nrequest.urlopen(address)\n"
    )
    sound = (
        "subprocess.run(['x'], timeout=3)\nprocess.wait(3)\nthread.join(timeout=3)\n"
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n', '.join(words)\n"
        "# no limit: killed\nprocess.wait()\n"
    )

    assert len(list(waiting_calls(planted))) == 6
    assert not list(waiting_calls(sound))


def test_every_limit_is_on_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A constant that is called like a limit is on the page, or among the others here."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "reference")
    import limits  # type: ignore[import-not-found]

    on_page, missing, known = limits.constants(), [], set()
    for file in FILES:
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if isinstance(name, ast.Name) and LIMIT.fullmatch(name.id):
                        known.add(name.id)
                        if f"{module}:{name.id}" not in on_page and name.id not in OTHERS:
                            missing.append(f"{module}:{name.id}")
    for module in ("limits", "limit", "request_limits"):
        sys.modules.pop(module, None)

    assert not missing, "add them to docs/reference/limits.yaml, or to OTHERS here where they end nothing"
    assert known >= OTHERS, OTHERS - known
