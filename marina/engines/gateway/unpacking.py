"""The files of an archive, unpacked into a folder."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from marina.core.errors import CallError
from marina.core.zip_files import check_members, check_unpacked_size

MODEL_CONFIG = "model-config.yaml"


def unpack(archive: Path, folder: Path) -> None:
    """The files of an archive into `folder`. Raises CallError for what is none or would leave the folder."""
    if not archive.is_file():
        raise CallError(f"no archive {archive}")
    try:
        check_unpacked_size(archive, archive.name)
        with zipfile.ZipFile(archive) as content:
            check_members(content, archive.name)
            content.extractall(folder)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise CallError(f"{archive.name} is no archive: {error}; build it with: marina archive") from error


def model_config(folder: Path) -> dict[str, Any]:
    """What the archive's own model-config.yaml says; nothing without one."""
    file = folder / MODEL_CONFIG
    config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return config if isinstance(config, dict) else {}


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A model-config with what a registration says otherwise; `handler` is a mapping of its own."""
    changed = {**config, **settings}
    if "handler" in settings:
        changed["handler"] = {**(config.get("handler") or {}), **settings["handler"]}
    return changed
