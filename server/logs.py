"""The server's log on the error stream: lines for people, or JSON objects for collectors."""

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Literal

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160))} | {9: " ", 10: "\\n"}
_CONTROLS |= {0x2028: "\\u2028", 0x2029: "\\u2029"}


class TextFormatter(logging.Formatter):
    """`21:50:14 INFO supervisor: the worker is ready on cpu  [job=...]`

    One line but for a traceback, without control characters: an address that a client sent cannot forge lines.
    """

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        extra = "  ".join(f"{key}={value}" for key, value in _extras(record).items() if value not in (None, ""))
        name = record.name.removeprefix("s2mesh.")
        line = f"{at} {record.levelname} {name}: {record.getMessage()}" + (f"  [{extra}]" if extra else "")
        line = line.translate(_CONTROLS)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line: `at`, `level`, `logger`, `message`, and whatever the caller added."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "at": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


def set_up_logging(style: Literal["text", "json"], *, verbose: bool = False) -> None:
    """Sends everything of the server, and warnings of its libraries, to the error stream."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("s2mesh").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns of every busy moment


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
