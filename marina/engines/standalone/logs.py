"""The log of the engine's processes: lines of text, or a JSON object per line for who collects them."""

import json
import logging
import sys
from datetime import UTC, datetime

TEXT = "%(asctime)s %(levelname)s %(process)d %(message)s"
EVENT = '{"event":'  # how handlers.runtime.telemetry's lines begin


class JsonFormatter(logging.Formatter):
    """A JSON object per line: time, level, process, and a message or the keys of a model's event."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or one for each event where several were logged at once."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"time": time, "level": record.levelname, "process": record.process}
        message = record.getMessage()
        if message.startswith(EVENT):
            opened = json.dumps(head)[:-1]
            return "\n".join(f"{opened}, {line[1:]}" for line in message.splitlines())
        content = {**head, "message": message}
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content)


def log_to_stdout(as_json: bool = False) -> None:
    """Have the root logger write everything from INFO on to stdout."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
