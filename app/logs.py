"""Log lines: text for people, JSON for machines, each with its request's id."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class _JSON(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return super().format(record)


def set_up_logs(log_format: str, process: str) -> None:
    """Log to standard error, from this process on."""
    handler = logging.StreamHandler(sys.stderr)
    text = _Text(f"%(asctime)s %(levelname)s {process} %(name)s [%(request_id)s] %(message)s")
    handler.setFormatter(_JSON(process) if log_format == "json" else text)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a broken form is no news
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
