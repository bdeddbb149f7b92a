"""Builders and runtimes that crash, hang or take all memory; a trial process imports them."""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from handlers.runtime import runtimes
from training.export.runtimes.candidates import Builder, Entry, ExportInputs, Rejected


def abort(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Crashes while it builds."""
    os.abort()


def hang(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Never ends."""
    time.sleep(3600)
    raise AssertionError


def hoard(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Takes 2 GB and keeps them."""
    kept = np.ones(2 * 2**30, np.uint8)
    time.sleep(3600)
    raise AssertionError(kept)


def leave(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Ends the process as a library would that calls exit()."""
    os._exit(7)


def refuse(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Has its reasons."""
    raise Rejected("there is nothing to build it with")


def fail(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Raises what a converter raises."""
    raise KeyError("aten.unheard_of\nand more")


def handlers(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """How signals are handled, instead of an entry."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return {number.name: signal.getsignal(number) == signal.SIG_DFL for number in numbers}


class Doubtful(runtimes.TorchRuntime):
    """The portable program in the place of OpenVINO; for a batch of `deadly` rows a segmentation fault."""

    name, deadly = "openvino", 0

    def __init__(self, path: Path, precision: str, form: Any, deadly: int = 0) -> None:
        super().__init__(runtimes.TorchRuntime.load(path.with_name("model.pt2")).module)
        self.deadly = deadly

    def __call__(self, *inputs: np.ndarray) -> Any:
        """One batch."""
        if len(inputs[0]) == self.deadly:
            ctypes.string_at(0)
        return super().__call__(*inputs)


def doubtful(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """An entry that this process loads as Doubtful."""
    runtimes.COMPILED["openvino"] = Doubtful
    return {"runtime": "openvino", "precision": precision, "file": "../openvino.xml"}


def deadly(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """The same, with the fault for three rows."""
    return {**doubtful(export_inputs, precision, folder), "options": {"deadly": 3}}


def builder(build: Any, *options: Any) -> Builder:
    """Of one precision, and without tools."""
    return Builder(build, {"fp32": ()}, options=options)
