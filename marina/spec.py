"""The spec of a model, `models/<name>.yaml`: the only place where a model is declared.

Training defaults live in the recipe (`training/<recipe>.py`), which also checks the keys under `training`.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from marina import paths
from marina.errors import CallError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,3}")

Model = TypeVar("Model", bound=BaseModel)
Kind = Literal["classifier", "detector", "segmenter", "policy", "video_classifier"]


class Section(BaseModel):
    """A part of the spec: unknown keys are refused, values don't change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Training(BaseModel):
    """How the model is trained; every further key is a setting of the recipe and is checked by it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    recipe: str = Field(description="the file in training/ that learns it, without .py")
    seed: int = Field(default=0, ge=0, description="seed of everything random")

    @property
    def is_import(self) -> bool:
        """Whether the recipe brings a model that learned elsewhere; there may be nothing to measure it by."""
        return self.recipe.startswith("imported_")

    @property
    def settings(self) -> dict[str, Any]:
        """What differs from the recipe's defaults."""
        return dict(self.model_extra or {})


POLICY_BATCH = 1024
POLICY_RUNTIMES = ("openvino", "onnxruntime")


class Export(Section):
    """How the trained model is exported."""

    max_batch: int = Field(default=64, ge=2, le=1024, description="largest batch that the graph takes; of a policy's 1024 by default")
    parity: float = Field(default=1e-4, gt=0, description="largest difference allowed between eager and exported outputs")
    runtimes: tuple[Literal["openvino", "onnxruntime", "aotinductor"], ...] = Field(
        default=("openvino",), description="tried beside torch; the fastest serves; for a policy onnxruntime too by default"
    )
    precisions: tuple[Literal["fp32", "bf16", "int8"], ...] = Field(default=("fp32", "bf16"), description="that they are tried in")
    agreement: float = Field(
        default=0.99, gt=0, le=1, description="share of held-out answers that fewer bits must give like the trained model"
    )


class Serving(Section):
    """How TorchServe runs it. All of TorchServe's own keys are written into the archive, none left to its defaults.

    But for two: `torchrun`, which counts only for parallelLevel above 0, and `deviceIds`, whose absence means all GPUs.
    """

    workers: int = Field(default=1, ge=1, le=64, description="worker processes at the start")
    max_workers: int | None = Field(default=None, ge=1, le=64, description="upper bound when scaled; default: workers")
    batch_size: int = Field(default=8, ge=1, le=1024, description="requests that are computed together at most")
    max_batch_delay_ms: int = Field(default=1, ge=1, le=10_000, description="how long a lone request waits for company")
    response_timeout_s: int = Field(default=30, ge=1, le=3600, description="a batch that takes longer restarts its worker")
    startup_timeout_s: int = Field(default=120, ge=5, le=3600, description="a worker that loads for longer is given up")
    client_timeout_ms: int = Field(default=30_000, ge=1, le=3_600_000, description="a request that waits longer is dropped")
    queue_size: int = Field(default=256, ge=1, le=100_000, description="requests that may wait; more get a 503 at once")
    max_retry_timeout_s: int = Field(default=300, ge=1, le=86_400, description="for how long a dying worker is restarted")
    threads: int | None = Field(default=None, ge=1, le=256, description="torch's threads per worker; default: measured at its start")
    decode_threads: int | None = Field(
        default=None, ge=1, le=64, description="threads that read the pictures of a batch, per worker; default: measured at its start"
    )
    max_answer_bytes: int = Field(default=6_000_000, ge=10_000, le=19_000_000, description="a longer answer is refused, not sent")
    device: Literal["cpu", "gpu"] = Field(default="cpu", description="where the workers compute")

    device_ids: tuple[int, ...] = Field(default=(), description="GPUs to spread the workers over; default: all")

    @model_validator(mode="after")
    def _bounds(self) -> "Serving":
        if self.device_ids and self.device == "cpu":
            raise ValueError(f"device_ids {list(self.device_ids)} are of no use on the cpu; say device: gpu, or leave them out")
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers ({self.max_workers}) is below workers ({self.workers}); raise it or leave it out")
        return self

    def model_config_yaml(self) -> dict[str, Any]:
        """The archive's model-config, in TorchServe's own names and units."""
        return {
            "minWorkers": self.workers,
            "maxWorkers": self.max_workers or self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.max_batch_delay_ms,
            "responseTimeout": self.response_timeout_s,
            "startupTimeout": self.startup_timeout_s,
            "clientTimeoutInMills": self.client_timeout_ms,
            "jobQueueSize": self.queue_size,
            "maxRetryTimeoutInSec": self.max_retry_timeout_s,
            "deviceType": self.device,
            **({"deviceIds": list(self.device_ids)} if self.device_ids else {}),
            "parallelType": "",
            "parallelLevel": 0,
            "useJobTicket": False,
            "useVenv": False,
            "asyncCommunication": False,
            "continuousBatching": False,
            "sequenceBatching": False,
            "sequenceMaxIdleMSec": 0,
            "sequenceTimeoutMSec": 0,
            "maxSequenceJobQueueSize": 0,
            "maxNumSequence": 0,
            "handler": {"threads": self.threads, "decode_threads": self.decode_threads, "max_answer_bytes": self.max_answer_bytes},
        }


class SampleRequest(Section):
    """A request of one's own and what must come back."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="what the tables call it")
    file: str | None = Field(default=None, description="a file beside the specs, in models/samples/")
    json_body: Any = Field(default=None, alias="json", description="a JSON body, instead of a file")
    expect: dict[str, Any] = Field(
        description='what must come back: {"class": …}, {"detections": […]}, {"areas": {class: share}} or {"action": …}'
    )

    @model_validator(mode="after")
    def _one_body(self) -> "SampleRequest":
        if (self.file is None) == (self.json_body is None):
            raise ValueError(f"sample {self.name!r} needs either 'file' or 'json'")
        return self


class Samples(Section):
    """The golden requests: they prove an export, warm a worker up, decide readiness and make the load test."""

    held_out: int = Field(default=6, ge=0, le=64, description="so many held-out examples that the model answers rightly")
    requests: tuple[SampleRequest, ...] = Field(default=(), description="requests of one's own")

    @model_validator(mode="after")
    def _some(self) -> "Samples":
        if self.held_out == 0 and not self.requests:
            raise ValueError("no samples: leave 'held_out' above 0 or write 'requests'")
        return self


class ServiceLevel(Section):
    """What the load test holds the model to."""

    p95_ms: float = Field(default=500, gt=0, description="95 of 100 requests answer within")
    max_failure_ratio: float = Field(default=0.0, ge=0, lt=1, description="share of failed or wrong answers allowed")


class Spec(Section):
    """One model."""

    name: str = Field(description="the file's name; never written in the file")
    about: str = Field(min_length=1, description="what it is: the comment on the file's first line")
    version: str = Field(default="1.0", pattern=f"^{VERSION.pattern}$", description='written in quotes: "1.0"')
    kind: Kind = Field(description="which handler serves it")
    training: Training
    floor: dict[str, float] = Field(
        default={}, validate_default=True, description="metric -> the least that is exported; only an import may do without"
    )
    export: Export = Field(default=Export(), validate_default=True)
    serving: Serving = Serving()
    samples: Samples = Samples()
    service_level: ServiceLevel = ServiceLevel()

    @field_validator("floor")
    @classmethod
    def _of_what_is_trained(cls, floor: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if not floor and not ("training" in info.data and info.data["training"].is_import):
            raise ValueError("write at least one metric with the least that is exported, like {accuracy: 0.9}")
        return floor

    @field_validator("export")
    @classmethod
    def _of_policies(cls, export: Export, info: ValidationInfo) -> Export:
        """Whoever asks a policy for many environments at once gets one batch; and small networks take least in ONNX Runtime."""
        if info.data.get("kind") != "policy":
            return export
        ours = {"max_batch": POLICY_BATCH, "runtimes": POLICY_RUNTIMES}
        return Export.model_construct(
            export.model_fields_set, **{**ours, **export.model_dump(exclude=ours.keys() - export.model_fields_set)}
        )

    @property
    def archive_name(self) -> str:
        """File name of the archive."""
        return f"{self.name}-{self.version}.mar"

    @property
    def export_dir(self) -> Path:
        """Folder of the export."""
        return paths.exports() / self.name / self.version

    def as_yaml(self) -> str:
        """What a file of this spec would say, overrides included; `parse` reads it back."""
        said = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"name", "about"})
        return f"# {self.about}\n" + yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=120)

    @property
    def is_exported(self) -> bool:
        """Whether the export is complete: its checksums are written last."""
        return (self.export_dir / "SHA256SUMS").is_file()

    def check_exported(self) -> None:
        """Raise CallError, with the command that makes one, when there is no export."""
        if not self.is_exported:
            raise CallError(f"no export {self.export_dir}; run: marina train {self.name}")


Overrides = Annotated[dict[str, Any], "dotted key -> value"]


def names() -> list[str]:
    """All models that have a spec, in alphabetical order."""
    return sorted(path.stem for path in paths.models().glob("*.yaml"))


def load(name: str, overrides: Overrides | None = None) -> Spec:
    """Read `models/<name>.yaml`, with `overrides` (dotted keys, as from --set) on top.

    Raises CallError with file, key and choice for whatever is wrong.
    """
    path = paths.models() / f"{name}.yaml"
    if not NAME.fullmatch(name):
        raise CallError(f"{name!r} is no model name: a letter, then letters, digits, - and _, 64 at most")
    if not path.is_file():
        known = ", ".join(names()) or "none yet"
        raise CallError(f"no spec {path}; known models: {known}. Copy one of them to add a model (docs/add-a-model.md)")
    return parse(path.read_text(encoding="utf-8"), name, str(path), overrides)


def parse(text: str, name: str, path: str, overrides: Overrides | None = None) -> Spec:
    """The spec in `text`, the contents of a file `path`; of the model `name`. Raises CallError as `load` does."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CallError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise CallError(f"{path} must be a mapping of keys, not {type(content).__name__}")
    for key in ("name", "about"):
        if key in content:
            raise CallError(f"{path}: {key!r} is not written: the name is the file's, 'about' is the comment on line one")
    for dotted, value in (overrides or {}).items():
        _put(content, dotted, value)
    first = text.lstrip().splitlines()[0] if text.strip() else ""
    about = first.lstrip("# ").strip() if first.startswith("#") else ""
    if not about:
        raise CallError(f"{path}: the first line must be a comment that says what the model is, like '# Reads one digit.'")
    return validated(Spec, {**content, "name": name, "about": about}, path)


def validated(model: type[Model], content: dict[str, Any], where: str) -> Model:
    """`content` as `model`; a CallError names place, key and choice, and lists the known keys for an unknown one."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise CallError("\n".join(_explain(model, problem, where) for problem in error.errors())) from error


def _explain(model: type[BaseModel], problem: Any, where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = ", ".join(_known(model, problem["loc"][:-1]))
        return f"{where}: unknown key {key!r}; known here: {known}"
    return f"{where}: {key or 'spec'}: {problem['msg']} (got {problem['input']!r})"


def _known(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys that are known at `location` inside `model`."""
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        model = next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return [field.alias or name for name, field in model.model_fields.items() if name not in ("name", "about") or model is not Spec]


def _put(content: dict[str, Any], dotted: str, value: Any) -> None:
    *folders, key = dotted.split(".")
    for folder in folders:
        content = content.setdefault(folder, {})
        if not isinstance(content, dict):
            raise CallError(f"--set {dotted}: {folder!r} is a value, not a section")
    content[key] = value
