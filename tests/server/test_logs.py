"""Lines of the log: for people and for collectors, with what the caller added, tracebacks, and no forged lines."""

import json
import logging
import sys

import pytest

from server.logs import JsonFormatter, TextFormatter, set_up_logging


@pytest.fixture
def log():
    """A logger of the server whose lines are caught; and all of `logging` as it was, afterwards."""
    names = ("", "s2mesh", "waitress.queue")
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).handlers[:]) for name in names}
    yield logging.getLogger("s2mesh.http")
    for name, (level, handlers) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).handlers[:] = handlers


def record(message: str = "the worker is ready on %s", *arguments: object, name: str = "s2mesh.supervisor", **extra):
    made = logging.getLogger(name).makeRecord(
        name, logging.WARNING, __file__, 1, message, arguments or (), None, extra=extra
    )
    made.created = 1795643414.123
    return made


def failed() -> tuple:
    try:
        raise ValueError("what went wrong")
    except ValueError:
        return sys.exc_info()


def test_a_line_for_people():
    line = TextFormatter().format(record("the worker is ready on %s", "cpu", job="a" * 32, ms=1.5))
    assert line[8:] == f" WARNING supervisor: the worker is ready on cpu  [job={'a' * 32}  ms=1.5]"
    assert line[2] == line[5] == ":" and line[:2].isdigit()


def test_extras_that_say_nothing_are_left_out_for_people():
    assert TextFormatter().format(record("x", error=None, last_words="", ms=0)).endswith("supervisor: x  [ms=0]")
    assert TextFormatter().format(record("x", error=None)).endswith("supervisor: x")
    assert TextFormatter().format(record("x", name="waitress")).endswith("WARNING waitress: x")


def test_a_line_for_collectors():
    line = JsonFormatter().format(record("ready on %s", "größe", job="a", ms=1.5, error=None))
    assert "\n" not in line and json.loads(line) == {
        "at": "2026-11-25T21:50:14.123+00:00",
        "level": "warning",
        "logger": "s2mesh.supervisor",
        "message": "ready on größe",
        "job": "a",
        "ms": 1.5,
        "error": None,
    }


def test_extras_that_are_no_json_are_told_in_words():
    class Odd:
        def __str__(self) -> str:
            return "odd thing"

    assert json.loads(JsonFormatter().format(record("x", what=Odd(), path=(1, "a"))))["what"] == "odd thing"
    assert "what=odd thing" in TextFormatter().format(record("x", what=Odd()))


def test_tracebacks():
    with_cause = record("it failed", error_id="ab")
    with_cause.exc_info = failed()
    text = TextFormatter().format(with_cause)
    first, *trace = text.split("\n")
    assert first.endswith("supervisor: it failed  [error_id=ab]")
    assert trace[0].startswith("Traceback") and trace[-1] == "ValueError: what went wrong"
    line = JsonFormatter().format(with_cause)
    assert "\n" not in line
    content = json.loads(line)
    assert content["message"] == "it failed" and content["traceback"].endswith("ValueError: what went wrong")
    assert "exc_info" not in content and "traceback" not in json.loads(JsonFormatter().format(record("x")))


@pytest.mark.parametrize(
    "evil", ["\n", "\r", "\r\n", "\x1b[2J", "\0", "\x7f", "\x85", "\x9b31m", "\u2028", "\u2029", "\v"]
)
def test_nobody_forges_lines_or_commands_the_terminal(evil):
    forged = f"GET /v1/x{evil}21:50:14 INFO http: all is well"
    for one in (record(forged), record("%s", forged), record("x", last_words=forged)):
        line = TextFormatter().format(one)
        assert line.isprintable() and len(line.splitlines()) == 1 and "all is well" in line
        assert len(JsonFormatter().format(one).splitlines()) == 1


def test_what_people_write_stays_as_it_is():
    assert TextFormatter().format(record("größe ✓ 模型 [x]\tend")).endswith("größe ✓ 模型 [x] end")


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("style", ["text", "json"])
def test_everything_goes_to_the_error_stream_once(log, capsys, style, verbose):
    for _ in range(2):  # a second call replaces, it does not add
        set_up_logging(style, verbose=verbose)
    log.debug("each request")
    log.info("a job", extra={"job": "a"})
    logging.getLogger("pil").info("chatter of a library")
    logging.getLogger("pil").warning("worth knowing")
    logging.getLogger("waitress.queue").warning("Task queue depth is 1")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    wanted = ["each request"] * verbose + ["a job", "worth knowing"]
    assert len(lines) == len(wanted) and all(words in line for words, line in zip(wanted, lines, strict=True))
    if style == "json":
        assert [json.loads(line)["message"] for line in lines] == wanted
    else:
        assert "http: a job  [job=a]" in lines[-2]
