"""Which device a process of an engine computes on."""

import logging
import os
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

WORKER_NUMBER = "MARINA_WORKER_NUMBER"  # in the environment of a worker, where a server has several


def device_of(config: Mapping[str, Any]) -> str:
    """Where a model with this model-config computes, in torch's words: workers take its GPUs in turn."""
    if config.get("deviceType") != "gpu":
        return "cpu"
    import torch  # where there is a GPU, it computes

    if not torch.cuda.is_available():
        logger.warning("device: gpu, but torch finds none here: it computes on the CPU")
        return "cpu"
    devices = config.get("deviceIds") or range(torch.cuda.device_count())
    return f"cuda:{devices[int(os.environ.get(WORKER_NUMBER, '0')) % len(devices)]}"
