"""AOTInductor's form of a graph: machine code that torch's own compiler made of it, with the weights inside.

It is bound to the processor's instruction set and to this torch; runtime.json says both, and elsewhere the
portable program serves. Compiling takes from ten seconds to minutes and a C++ compiler.
"""

import os
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from handlers.runtime.machine import processor_instructions
from handlers.runtime.runtimes import flat, form_of, in_form
from training.export.runtimes.candidates import Builder, Entry, ExportInputs, Rejected


def build(export_inputs: ExportInputs, precision: str, folder: Path) -> Entry:
    """Write the package. Raises Rejected where there is no C++ compiler."""
    from torch._inductor import aoti_compile_and_package  # seconds, for who asks for it

    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise Rejected(
            f"there is no C++ compiler {compiler!r}; install one (Debian: apt-get install g++), or name it "
            "in CXX"
        )
    program = export_inputs.torch_program if precision == "fp32" else _reduced(export_inputs)
    file = f"aotinductor-{precision}.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own affairs with itself
        aoti_compile_and_package(
            program, package_path=str(folder / file), inductor_configs={"freezing": True}
        )
    needs = {"torch": version("torch"), "instructions": sorted(processor_instructions())}
    return {"runtime": "aotinductor", "precision": precision, "file": file, "needs": needs}


BUILDER = Builder(build, {"fp32": (), "bf16": ()})


class _Autocast(torch.nn.Module):
    """Computes in bfloat16 what torch holds to be safe in it, and returns what the module returns, in
    float32.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.module(*inputs)
        return in_form(
            [one.float() if one.dtype == torch.bfloat16 else one for one in flat(outputs)], form_of(outputs)
        )


def _reduced(export_inputs: ExportInputs) -> torch.export.ExportedProgram:
    """Export the graph again, with its casts to bfloat16."""
    batch = torch.export.Dim("batch", min=1, max=export_inputs.spec.export.max_batch)
    shapes = {"inputs": tuple({0: batch} for _ in export_inputs.trained.example)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            _Autocast(export_inputs.torch_program.module()),
            export_inputs.trained.example,
            dynamic_shapes=shapes,
            strict=False,
        )
