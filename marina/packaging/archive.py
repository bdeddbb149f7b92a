"""exports/<name>/<version>/ -> model_store/<name>-<version>.mar: self-contained, reproducible, checksummed.

torch-model-archiver lays the archive out; the zip is written here, with sorted names, fixed dates and a fixed
creation time, so that two builds of one export are equal byte for byte. Every build works in a private
temporary folder (below TMPDIR), because the archiver deletes $TMPDIR/<model name> first, whatever that is.
"""

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from handlers.protocol.errors import BrokenArchive
from handlers.runtime.checksums import NAME as CHECKSUMS
from handlers.runtime.checksums import file_digest, verify_checksums, write_checksums
from handlers.runtime.export import Export
from marina.core import files, paths, programs
from marina.core.errors import CallError, WorkError
from marina.core.scratch import scratch_folder
from marina.core.spec import Spec, parse
from marina.core.zip_files import UNREADABLE, check_members, check_unpacked_size
from marina.packaging.handler_package import entry_point, write_handlers

ARCHIVER_SECONDS = 900.0
NEVER_PACKED = ("report",)  # pictures for people; they stay with the export


@dataclass(frozen=True)
class Archive:
    """A built archive; `changed` is False when the same bytes were there before."""

    path: Path
    sha256: str
    changed: bool


def build(spec: Spec) -> Archive:
    """Archive the export of `spec`.

    Raises CallError when there is none, WorkError when it is damaged or can't be packed.
    """
    check_export(spec)
    spec.archive_path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder("marina-archive-") as scratch:
        contents = _collect(spec, scratch / "contents")
        layout = _lay_out(spec, contents, scratch)
        packed = scratch / spec.archive_name
        _zip(layout, packed)
        return _publish(packed, spec.archive_path)


def spec_of(name: str, version: str, home: Path | None = None) -> Spec:
    """The spec that the archive of a version was built from, whatever models/ says now. Raises CallError."""
    home = home or paths.find_home()
    path = paths.model_store(home) / f"{name}-{version}.mar"
    if not path.is_file():
        there = (
            ", ".join(sorted(file.stem for file in path.parent.glob(f"{name}-*.mar"))) or "none of this model"
        )
        raise CallError(f"no archive {path}; in the store: {there}. Build it with: marina archive {name}")
    with _readable(path) as folder:
        text = (folder / "spec.yaml").read_text(encoding="utf-8")
        return parse(text, name, f"{path}: spec.yaml").moved(home)


def checksum(spec: Spec) -> str:
    """What identifies the archive of `spec`: SHA-256 of its own SHA256SUMS.

    The served model reports it too ("checksum").
    """
    with opened(spec) as folder:
        return file_digest(folder / CHECKSUMS)


@contextmanager
def opened(spec: Spec) -> Iterator[Any]:
    """The files inside the archive of `spec`, as a path. Raises CallError when none can be read."""
    path = spec.archive_path
    if not path.is_file():
        raise CallError(f"no archive {path}; run: marina archive {spec.name}")
    with _readable(path) as folder:
        yield folder


@contextmanager
def _readable(path: Path) -> Iterator[Any]:
    try:
        check_unpacked_size(path, f"archive {path}")
        root = zipfile.Path(path)
        check_members(root.root, f"archive {path}")
        yield root
    except UNREADABLE as error:
        raise CallError(
            f"archive {path} can't be read ({error}); build it again with: marina archive"
        ) from error


def check_export(spec: Spec) -> None:
    """Raise unless the export of `spec` is complete and unchanged."""
    spec.check_exported()
    try:
        verify_checksums(spec.export_dir)
    except BrokenArchive as error:
        raise WorkError(
            f"export {spec.export_dir}: {error}; train again with: marina train {spec.name}"
        ) from error


def _collect(spec: Spec, folder: Path) -> Path:
    """All files of the archive, and their checksums."""
    shutil.copytree(spec.export_dir, folder, ignore=shutil.ignore_patterns(*NEVER_PACKED, CHECKSUMS))
    write_handlers(spec, folder)
    (folder / "spec.yaml").write_text(spec.as_yaml(), encoding="utf-8")
    config = yaml.safe_dump(spec.serving.model_config_yaml(), sort_keys=False)
    (folder / "model-config.yaml").write_text(config, encoding="utf-8")
    write_checksums(folder)
    return folder


def _lay_out(spec: Spec, contents: Path, scratch: Path) -> Path:
    """Run torch-model-archiver; returns the folder that is to be zipped."""
    archiver = [sys.executable, "-m", "model_archiver.model_packaging"]
    call = [
        *archiver,
        *("--model-name", spec.name, "--version", spec.version, "--archive-format", "no-archive"),
        *(
            "--handler",
            str(contents / entry_point(spec)),
            "--serialized-file",
            str(Export.open(contents).program),
        ),
        *("--config-file", str(contents / "model-config.yaml"), "--extra-files", str(contents)),
        *("--export-path", str(scratch)),
    ]
    private = scratch / "tmp"
    private.mkdir()
    environment = {**os.environ, "TMPDIR": str(private)}
    done = programs.run(call, ARCHIVER_SECONDS, f"see whether the disk of {scratch} is slow", env=environment)
    if done.returncode != 0:
        raise WorkError(
            f"torch-model-archiver failed on {spec.name}: {(done.stderr or done.stdout).strip()[-800:]}"
        )
    layout = scratch / spec.name
    manifest = layout / "MAR-INF" / "MANIFEST.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["createdOn"] = "01/01/1980 00:00:00"  # TorchServe warns when there is none
    manifest.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return layout


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())


def _publish(packed: Path, target: Path) -> Archive:
    """Move the archive and its checksum into the store in one step each; a reader never sees half a file."""
    digest = file_digest(packed)
    changed = not target.is_file() or file_digest(target) != digest
    if changed:
        files.write_atomic(target, packed.read_bytes())
    files.write_atomic(target.with_name(target.name + ".sha256"), f"{digest}  {target.name}\n")
    return Archive(target, digest, changed)
