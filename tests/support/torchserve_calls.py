"""TorchServe's calls of a handler, in process."""

import json
from typing import Any

from ts.context import Context, RequestProcessor

from handlers.torchserve.adapter import TorchServeHandler
from marina.core.spec import Spec


def context_of(one: Spec, headers: list[dict[str, str]]) -> Context:
    made = Context(one.name, str(one.export_dir), {}, 8, None, "0.12.0", model_yaml_config={"maxWorkers": 1})
    made.request_ids = {index: f"id-{index}" for index in range(len(headers))}
    made.request_processor = [RequestProcessor(dict(header)) for header in headers]
    return made


def handle(
    handler: TorchServeHandler, one: Spec, rows: list[dict], headers: list[dict] | None = None
) -> list[tuple[int, Any]]:
    """(status, parsed body) per row, as TorchServe would send them."""
    made = context_of(one, headers or [{}] * len(rows))
    bodies = handler.handle(rows, made)
    return [
        (made.get_response_status(index)[0] or 200, json.loads(body)) for index, body in enumerate(bodies)
    ]
