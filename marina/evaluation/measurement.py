"""Measures a model through its endpoint, beside the same measurement in this process.

Both send the same requests - files as they are, pictures and clips as PNG, observations of a real environment
- and both answers are measured by the same code, the kind's own. In process means the export's own program
behind the serving code, without a server.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from handlers.runtime.predictor import Predictor
from marina.client import Client
from marina.core.errors import WorkError
from marina.core.spec import Spec
from marina.kinds.kind import Answer, Rows

IN_FLIGHT = 8


def through_endpoint(client: Client, spec: Spec) -> Answer:
    """Answers from the server; several requests are under way at once, so that it can batch them."""

    def answer(rows: Rows, headers: Mapping[str, str]) -> list[Any]:
        def ask(row: tuple[bytes, str]) -> Any:
            body, content_type = row
            return client.predict(spec.name, body, spec.version, content_type=content_type, headers=headers)

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            return list(pool.map(ask, rows))

    return answer


def in_process(spec: Spec) -> Answer:
    """Answers from the export itself."""
    predictor: Predictor = spec.predictor()
    predictor.load(spec.export_dir, spec.serving.model_config_yaml())

    def answer(rows: Rows, headers: Mapping[str, str]) -> list[Any]:
        answers = predictor.answer_rows([({"body": body}, headers) for body, _ in rows])
        for one in answers:
            if isinstance(one, Exception):
                raise WorkError(f"{spec.name}: a request of the evaluation was refused: {one}")
        return answers

    return answer
