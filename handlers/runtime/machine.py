"""The machine's cores and processor.

What Linux alone tells has a fallback, so that macOS can do without it.
"""

import os
import platform
import re
from pathlib import Path

import psutil

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = re.compile(
    r"s?sse|avx|amx|fma|f16c|bmi|abm|movbe|popcnt|gfni|v?aes|v?pclmul|sha"
    r"|asimd|sve|sme|fp|bf16|i8mm|atomics|crc32"
)


def usable_cores() -> int:
    """The cores that this process may run on; all cores on systems that bind no process to some of them."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else psutil.cpu_count() or 1


def processor_instructions(cpuinfo: Path = CPUINFO) -> set[str]:
    """The instruction sets that a compiler may choose from, in Linux's names; empty on other systems."""
    words = _field(cpuinfo, "flags") or _field(cpuinfo, "Features")
    return {word for word in words.split() if INSTRUCTIONS.match(word)}


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's model, or at least its architecture."""
    return _field(cpuinfo, "model name") or platform.processor() or platform.machine()


def _field(cpuinfo: Path, name: str) -> str:
    """The value of the first line `name: value`; empty when there is none, or no such file."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
