"""Code of an archive that misbehaves: where it starts, and where it answers."""

import hashlib
import zipfile

from marina.core.spec import Spec

AT_START = """

_start = PolicyPredictor.start


def _started(self, *arguments, **options):
    {}
    return _start(self, *arguments, **options)


PolicyPredictor.start = _started
"""
CRASHES = AT_START.format("import ctypes; ctypes.string_at(0)")
HANGS = AT_START.format("import time; time.sleep(600)")
SLOW_ANSWERS = """

_right = PolicyPredictor.postprocess


def _slow(self, outputs, prepared):
    import time

    if any(one.arrays[0].flat[0] == 3 for one in prepared):
        time.sleep(1.0)
    return _right(self, outputs, prepared)


PolicyPredictor.postprocess = _slow
"""


def append(spec: Spec, code: str) -> None:
    """Add code to the policy's module in the archive of `spec`, with checksums that are right again."""
    path, module = spec.archive_path, "kinds/policy.py"
    with zipfile.ZipFile(path) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
    (name,) = [name for name in contents if name.endswith(module)]
    contents[name] += code.encode()
    sums = contents["SHA256SUMS"].decode().splitlines()
    digest = hashlib.sha256(contents[name]).hexdigest()
    changed = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in sums]
    contents["SHA256SUMS"] = ("\n".join(changed) + "\n").encode()
    with zipfile.ZipFile(path, "w") as packed:
        for file, content in contents.items():
            packed.writestr(file, content)
