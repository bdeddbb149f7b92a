"""TorchServe's side of a handler: its context and rows in, bodies and statuses out.

An entry point is a subclass of a few lines that names its predictor. What answers is the predictor, which
knows no engine.
"""

import gc
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ..protocol.requests import lower_case
from ..runtime.predictor import Predictor
from .base_handler import BaseHandler
from .codec import install
from .pieces import messages_of


class TorchServeHandler(BaseHandler):  # type: ignore[misc]  # ts has no types
    """Serves an archive through `predictor_class`; one instance per worker process."""

    predictor_class: ClassVar[type[Predictor]]

    def __init__(self) -> None:
        super().__init__()
        self.predictor = self.predictor_class()

    def initialize(self, context: Any) -> None:
        """Start the predictor on the unpacked archive; called by TorchServe once per worker.

        Raises BrokenArchive if a file was changed or a golden sample is answered differently.
        """
        self.context = context
        config: Mapping[str, Any] = getattr(context, "model_yaml_config", None) or {}
        properties = context.system_properties
        ready = self.predictor.start(Path(properties["model_dir"]), config, _device(properties.get("gpu_id")))
        if context.model_name:
            self.predictor.rename(context.model_name)
        self.predictor.has_metrics = context.metrics is not None
        self.initialized = True
        own_codec = install(self.predictor.reply, self.predictor.report, partial(messages_of, self.predictor))
        if own_codec:  # this process does nothing else
            gc.collect()
            gc.freeze()  # what exists now stays; scanning it for garbage again and again would delay requests
        self.predictor.telemetry.log("ready", {**ready, "own_codec": own_codec})

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """One batch of TorchServe's rows -> one body per row; status and content type are set on `context`.

        Where `codec` is installed, the worker calls the predictor's `reply` instead.
        """
        indices = range(len(data))
        headers = [lower_case(context.get_all_request_header(index) or {}) for index in indices]
        ids = [context.get_request_id(index) for index in indices]
        rows = list(zip(data, headers, strict=True))
        replies = self.predictor.reply(rows, ids)
        self.predictor.report(rows, ids, replies)
        for index, reply in enumerate(replies):
            if reply.error:
                context.set_response_status(reply.status.value, reply.status.phrase, index)
            context.set_response_content_type(index, reply.content_type)
        return [reply.content for reply in replies]

    def describe_handle(self) -> dict[str, Any]:
        """What `GET /models/NAME?customized=true` shows."""
        return self.predictor.describe()


def _device(gpu: int | None) -> str:
    """The device that TorchServe gave this worker, in torch's words."""
    if gpu is None:
        return "cpu"
    import torch  # where there is a GPU, it computes

    return f"cuda:{gpu}" if torch.cuda.is_available() else "cpu"
