"""The section `serving` of a spec and what TorchServe calls it."""

from typing import Any, Literal

from pydantic import Field, model_validator

from marina.core.validation import Section


class Serving(Section):
    """How TorchServe runs the model.

    All of TorchServe's own keys are written into the archive, so that its defaults don't matter. Two are
    left out: `torchrun`, which is used only with parallelLevel above 0, and `deviceIds`, whose absence means
    all GPUs.
    """

    workers: int = Field(default=1, ge=1, le=64, description="worker processes at the start")
    max_workers: int | None = Field(
        default=None, ge=1, le=64, description="upper bound when scaled; default: workers"
    )
    batch_size: int = Field(default=8, ge=1, le=1024, description="most requests that are computed together")
    max_batch_delay_ms: int = Field(
        default=1, ge=1, le=10_000, description="how long a request waits for others to be batched with"
    )
    response_timeout_s: int = Field(
        default=30, ge=1, le=3600, description="a batch that takes longer restarts its worker"
    )
    startup_timeout_s: int = Field(
        default=120, ge=5, le=3600, description="a worker that takes longer to load is stopped"
    )
    client_timeout_ms: int = Field(
        default=30_000, ge=1, le=3_600_000, description="a request that waits longer is dropped"
    )
    queue_size: int = Field(
        default=256, ge=1, le=100_000, description="requests that may wait; more get a 503 at once"
    )
    max_retry_timeout_s: int = Field(
        default=300, ge=1, le=86_400, description="for how long a dying worker is restarted"
    )
    threads: int | None = Field(
        default=None, ge=1, le=256, description="torch's threads per worker; default: measured at its start"
    )
    decode_threads: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="threads that decode the pictures of a batch, per worker; default: measured at its start",
    )
    max_answer_bytes: int = Field(
        default=6_000_000, ge=10_000, le=19_000_000, description="a longer answer is an error"
    )
    device: Literal["cpu", "gpu"] = Field(default="cpu", description="where the workers compute")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of a GPU; auto: bfloat16 where the export was measured to answer alike in it",
    )
    device_ids: tuple[int, ...] = Field(
        default=(), description="GPUs to spread the workers over; default: all"
    )

    @model_validator(mode="after")
    def _bounds(self) -> "Serving":
        if self.device_ids and self.device == "cpu":
            raise ValueError(
                f"device_ids {list(self.device_ids)} have no effect on the cpu; write device: gpu, or "
                "leave them out"
            )
        if self.precision != "auto" and self.device == "cpu":
            raise ValueError(
                f"precision {self.precision} has no effect on the cpu, where the export has chosen it by "
                "measuring; write device: gpu, or leave it out"
            )
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(
                f"max_workers ({self.max_workers}) is below workers ({self.workers}); raise it or leave "
                "it out"
            )
        return self

    def model_config_yaml(self) -> dict[str, Any]:
        """The archive's model-config, in TorchServe's names and units."""
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
            "handler": {
                "threads": self.threads,
                **({"precision": self.precision} if self.device == "gpu" else {}),
                "decode_threads": self.decode_threads,
                "max_answer_bytes": self.max_answer_bytes,
            },
        }
