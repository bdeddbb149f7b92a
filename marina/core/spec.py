"""The spec of a model, `models/<name>.yaml`: the only place where a model is declared.

Training defaults live in the recipe, which also checks the keys under `training` and that there is a floor.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from marina.core import kinds, paths
from marina.core.errors import CallError
from marina.core.search import Search
from marina.core.serving import Serving
from marina.core.validation import Section, validate
from marina.core.yaml_files import parse_yaml, read_text

__all__ = [
    "NAME",
    "VERSION",
    "Export",
    "Overrides",
    "SampleRequest",
    "Samples",
    "Section",
    "ServiceLevel",
    "Spec",
    "Training",
    "load",
    "names",
    "parse",
    "validate",
]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,3}")


class Training(BaseModel):
    """How the model is trained. Further keys are settings of the recipe, which checks them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    recipe: str = Field(description="one of training/recipes/, or one of your own: package.module or file.py")
    seed: int = Field(default=0, ge=0, description="seed of all random numbers")

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's settings that the spec changes."""
        return dict(self.model_extra or {})


class Export(Section):
    """How the trained model is exported."""

    max_batch: int = Field(
        default=64, ge=2, le=1024, description="largest batch of the graph; 1024 by default for a policy"
    )
    parity: float = Field(
        default=1e-4, gt=0, description="largest difference allowed between eager and exported outputs"
    )
    runtimes: tuple[Literal["openvino", "onnxruntime", "aotinductor"], ...] = Field(
        default=("openvino",),
        description="tried beside torch; the fastest serves; by default a policy tries onnxruntime too",
    )
    precisions: tuple[Literal["fp32", "bf16", "int8"], ...] = Field(
        default=("fp32", "bf16"), description="precisions that are tried"
    )
    agreement: float = Field(
        default=0.99, gt=0, le=1, description="share of held-out answers that a lower precision must keep"
    )


class SampleRequest(Section):
    """A request of your own and its expected answer."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="its name in tables")
    file: str | None = Field(default=None, description="a file beside the specs, in models/samples/")
    json_body: Any = Field(default=None, alias="json", description="a JSON body, instead of a file")
    expect: dict[str, Any] = Field(
        description='expected: {"class": …}, {"detections": […]}, {"areas": {…}} or {"action": …}'
    )

    @model_validator(mode="after")
    def _one_body(self) -> "SampleRequest":
        if (self.file is None) == (self.json_body is None):
            raise ValueError(f"sample {self.name!r} needs either 'file' or 'json'")
        return self


class Samples(Section):
    """The golden requests: they check an export, warm workers up, decide readiness and make the load test."""

    held_out: int = Field(
        default=6, ge=0, le=64, description="how many held-out examples with a right answer"
    )
    requests: tuple[SampleRequest, ...] = Field(default=(), description="requests of your own")

    @model_validator(mode="after")
    def _some(self) -> "Samples":
        if self.held_out == 0 and not self.requests:
            raise ValueError("no samples: leave 'held_out' above 0 or write 'requests'")
        return self


class ServiceLevel(Section):
    """What the load test requires."""

    p95_ms: float = Field(default=500, gt=0, description="95th percentile of the response time")
    max_failure_ratio: float = Field(
        default=0.0, ge=0, lt=1, description="largest share of failed or wrong answers"
    )


class Spec(Section):
    """One model."""

    unwritten = ("name", "about")

    name: str = Field(description="the file's name; not a key of the file")
    about: str = Field(min_length=1, description="what it is: the comment on the file's first line")
    version: str = Field(
        default="1.0", pattern=f"^{VERSION.pattern}$", description='written in quotes: "1.0"'
    )
    kind: str = Field(
        description=(
            "classifier, detector, segmenter, video_classifier, text_classifier, embedder, tagger, "
            "generator, regressor, tabular_classifier, forecaster, sequence_classifier, audio_classifier, "
            "policy, tensor, or one of your own in kinds/"
        )
    )
    handler: str | None = Field(
        default=None,
        pattern=r"^[^/].*\.py$",
        description="a file in the project's folder whose PREDICTOR serves it instead of the kind's",
    )
    training: Training
    floor: dict[str, float] = Field(
        default={},
        description="metric -> the least value that is exported; optional only for an import",
    )
    search: Search = Search()
    export: Export = Field(default=Export(), validate_default=True)
    serving: Serving = Serving()
    samples: Samples = Samples()
    service_level: ServiceLevel = ServiceLevel()

    @field_validator("kind")
    @classmethod
    def _registered(cls, kind: str) -> str:
        try:
            kinds.get(kind)
        except CallError as error:
            raise ValueError(str(error)) from error
        return kind

    @field_validator("export")
    @classmethod
    def _defaults_of_kind(cls, export: Export, info: ValidationInfo) -> Export:
        """Apply the kind's own defaults, like a policy's larger batch."""
        if "kind" not in info.data:
            return export
        defaults = kinds.get(info.data["kind"]).export_defaults
        written = export.model_dump(exclude=defaults.keys() - export.model_fields_set)
        return Export.model_construct(export.model_fields_set, **{**defaults, **written})

    @property
    def archive_name(self) -> str:
        """File name of the archive."""
        return f"{self.name}-{self.version}.mar"

    @cached_property
    def home(self) -> Path:
        """The project that it was read from. Specs of two projects may be equal."""
        return paths.find_home()

    def predictor(self) -> Any:
        """A new predictor (`handlers.runtime.predictor.Predictor`), not started."""
        return kinds.predictor_of(self.kind, self.handler, self.home)

    @property
    def export_dir(self) -> Path:
        """Folder of the export."""
        return paths.exports(self.home) / self.name / self.version

    @property
    def archive_path(self) -> Path:
        """The archive's file."""
        return paths.model_store(self.home) / self.archive_name

    def moved(self, home: Path) -> "Spec":
        """The same spec in another project."""
        copy = self.model_copy()
        copy.__dict__["home"] = home
        return copy

    def as_yaml(self) -> str:
        """The content of a file of this spec, overrides included; `parse` reads it."""
        content = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"name", "about"})
        return f"# {self.about}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)

    @property
    def is_exported(self) -> bool:
        """Whether the export is complete: its checksums are written last."""
        return (self.export_dir / "SHA256SUMS").is_file()

    def check_exported(self) -> None:
        """Raise CallError, with the command that makes one, when there is no export."""
        if not self.is_exported:
            raise CallError(f"no export {self.export_dir}; run: marina train {self.name}")


Overrides = Annotated[dict[str, Any], "dotted key -> value"]


def names(home: Path | None = None) -> list[str]:
    """All models that have a spec, in alphabetical order."""
    return sorted(path.stem for path in paths.models(home).glob("*.yaml"))


def load(name: str, overrides: Overrides | None = None, home: Path | None = None) -> Spec:
    """Read `models/<name>.yaml` of the project `home`, with `overrides` (dotted keys, as from --set) on top.

    Raises CallError with the file, the key and what is allowed there.
    """
    home = home or paths.find_home()
    path = paths.models(home) / f"{name}.yaml"
    if not NAME.fullmatch(name):
        raise CallError(f"{name!r} is no model name: a letter, then letters, digits, - and _, 64 at most")
    if not path.is_file():
        known = ", ".join(names(home)) or "none yet"
        raise CallError(
            f"no spec {path}; known models: {known}. Copy one of them to add a model "
            "(docs/guide/add-a-model.md)"
        )
    return parse(read_text(path), name, str(path), overrides).moved(home)


def parse(text: str, name: str, path: str, overrides: Overrides | None = None) -> Spec:
    """The spec of the model `name` in `text`, the content of `path`. Raises CallError as `load` does."""
    content = parse_yaml(text, path)
    if not isinstance(content, dict):
        raise CallError(f"{path} must be a mapping of keys, not {type(content).__name__}")
    for key in ("name", "about"):
        if key in content:
            raise CallError(
                f"{path}: {key!r} is not written: the name is the file's, 'about' is the comment on line one"
            )
    for dotted, value in (overrides or {}).items():
        _put(content, dotted, value)
    first = text.lstrip().splitlines()[0] if text.strip() else ""
    about = first.lstrip("# ").strip() if first.startswith("#") else ""
    if not about:
        raise CallError(
            f"{path}: the first line must be a comment that says what the model is, like '# Reads one digit.'"
        )
    return validate(Spec, {**content, "name": name, "about": about}, path)


def _put(content: dict[str, Any], dotted: str, value: Any) -> None:
    *folders, key = dotted.split(".")
    for folder in folders:
        content = content.setdefault(folder, {})
        if not isinstance(content, dict):
            raise CallError(f"--set {dotted}: {folder!r} is a value, not a section")
    content[key] = value
