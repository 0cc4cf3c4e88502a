"""A worker process as the server has it: small real children that talk, rave, flood, fall silent or refuse to end."""

import os
import queue
import signal
import sys
import time

import psutil
import pytest

from server.jobs.worker_process import Garbled, Gone, Heard, WorkerProcess, describe_end
from server.worker import protocol

PATIENCE_S = 60.0
PREAMBLE = """
import json, os, signal, subprocess, sys, time
def say(**message):
    print(json.dumps(message), flush=True)
say(type="note", job_id="a", message="up")
"""
UP = protocol.Note(job_id="a", message="up")


class Child:
    """A started process and what it told."""

    def __init__(self, code: str, folder) -> None:
        self.heard: queue.Queue = queue.Queue()
        self.worker = WorkerProcess([sys.executable, "-c", PREAMBLE + code], folder, self.heard.put)

    def next(self) -> Heard | Garbled | Gone:
        event = self.heard.get(timeout=PATIENCE_S)
        assert event.worker is self.worker
        return event

    def rest(self) -> list:
        """All that it tells until it is gone, which is the last word."""
        events = [self.next()]
        while not isinstance(events[-1], Gone):
            events.append(self.next())
        assert self.heard.empty()
        return [event.event if isinstance(event, Heard) else event for event in events]


@pytest.fixture
def start(tmp_path):
    children = []

    def start_one(code: str) -> Child:
        children.append(Child(code, tmp_path))
        return children[-1]

    yield start_one
    for child in children:
        child.worker.kill()
        child.worker.close()


def test_commands_go_in_and_events_come_out_in_order(start):
    child = start(
        """
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "exit":
        break
    say(type="cancelled", job_id=message["job_id"])
say(type="note", job_id="a", message=os.getcwd())
sys.exit(3)
"""
    )
    assert child.next().event == UP
    assert all(child.worker.send(protocol.Cancel(job_id=str(number))) for number in range(50))
    assert child.worker.send(protocol.Exit())
    *answers, place, gone = child.rest()
    assert answers == [protocol.Cancelled(job_id=str(number)) for number in range(50)]
    assert place.message != os.getcwd(), "it does not run where the server was started"
    assert isinstance(gone, Gone)
    assert child.worker.close() == 3


def test_each_message_is_a_sign_of_life(start):
    child = start("sys.stdin.readline(); say(type='cancelled', job_id='a'); time.sleep(600)")
    child.next()
    first = child.worker.last_sign
    assert child.worker.started_at <= first <= time.monotonic()
    child.worker.send(protocol.Cancel(job_id="a"))
    child.next()
    assert child.worker.last_sign > first


@pytest.mark.parametrize(
    "writes",
    [
        "sys.stdout.write('Segmentation fault (core dumped)\\n')",
        "sys.stdout.buffer.write(bytes(range(256)) + b'\\n')",
        'sys.stdout.write(\'{"type":"cancelled"\')',
        "sys.stdout.write('\\n')",
        "say(type='launch', missiles=True)",
        "sys.stdout.write('x' * 5_000_000)",
        "[sys.stdout.write('garbage\\n') for _ in range(100_000)]",
    ],
    ids=["text", "bytes", "half a message", "an empty line", "an unknown message", "an endless line", "a flood"],
)
def test_garbage_is_told_once_and_nothing_after_it_is_heard(start, writes):
    child = start(f"{writes}\nsys.stdout.flush()\nsay(type='cancelled', job_id='a')\n")
    up, garbled, gone = child.rest()
    assert up == UP and isinstance(garbled, Garbled) and isinstance(gone, Gone)
    assert "is no message" in garbled.message and len(garbled.message) < 700
    child.worker.close()


def test_a_line_as_long_as_allowed_is_heard(start):
    child = start("say(type='note', job_id='a', message='x' * 4_000_000)")
    events = child.rest()
    assert len(events[1].message) == 4_000_000


def test_a_silent_death_is_told(start):
    child = start("sys.stdin.readline(); os._exit(7)")
    child.next()
    child.worker.send(protocol.Exit())
    assert isinstance(child.next(), Gone)
    assert child.worker.wait(PATIENCE_S) == 7 and child.worker.close() == 7
    assert child.worker.send(protocol.Exit()) is False


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
def test_a_death_by_signal_is_told(start):
    child = start("os.kill(os.getpid(), signal.SIGSEGV)")
    assert isinstance(child.rest()[-1], Gone)
    assert describe_end(child.worker.close()) == "was killed by signal 11"


def test_a_dead_process_takes_no_commands(start):
    child = start("")
    child.rest()
    child.worker.wait(PATIENCE_S)
    sent = [child.worker.send(protocol.Cancel(job_id="a" * 10_000)) for _ in range(20)]
    assert sent[-1] is False
    assert child.worker.close() == 0


def test_a_flood_on_the_error_stream_blocks_nobody_and_its_end_is_kept(start, caplog):
    caplog.set_level("CRITICAL", logger="s2mesh.worker")  # the lines are logged; nobody needs to read 20000 here
    child = start(
        """
for number in range(20_000):
    print(f"line {number}", file=sys.stderr)
sys.stderr.buffer.write(b"\\xff broken \\x00 bytes\\n\\n")
sys.stderr.buffer.write(b"y" * 200_000 + b"\\n")
print("the end", file=sys.stderr, end="")
"""
    )
    assert [type(event).__name__ for event in child.rest()] == ["Note", "Gone"]
    assert child.worker.close() == 0
    words = child.worker.last_words().split("\n")
    assert words[-1] == "the end" and len(words) <= 30 and max(map(len, words)) <= 65536
    assert "line 19999" in words and "\ufffd broken \x00 bytes" in words and "line 1" not in words


def test_its_error_stream_goes_to_the_log(start, caplog):
    caplog.set_level("INFO", logger="s2mesh.worker")
    child = start("print('loading weights', file=sys.stderr)")
    child.rest()
    child.worker.close()
    (record,) = [record for record in caplog.records if record.name == "s2mesh.worker"]
    assert record.getMessage() == "loading weights" and record.worker_pid == child.worker.pid


def test_one_that_refuses_to_end_is_killed(start):
    child = start(
        """
for name in ("SIGTERM", "SIGINT", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
say(type="cancelled", job_id="a")
while True:
    time.sleep(1)
"""
    )
    child.next(), child.next()
    assert child.worker.send(protocol.Exit()) and child.worker.wait(0.05) is None
    status = child.worker.close()
    assert status == (-signal.SIGKILL if hasattr(signal, "SIGKILL") else 1)
    assert isinstance(child.next(), Gone) and not psutil.pid_exists(child.worker.pid)
    assert child.worker.close() == status, "closing twice is as once"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP there")
def test_one_that_stands_still_is_killed(start):
    child = start("time.sleep(600)")
    child.next()
    os.kill(child.worker.pid, signal.SIGSTOP)
    assert child.worker.close() == -signal.SIGKILL


@pytest.mark.parametrize("held", ["stdout", "stderr"])
def test_a_process_that_it_started_and_left_behind_does_not_hold_us(start, held):
    """The pipe stays open when its worker is dead: waiting for its end would be waiting for that process."""
    other = "stderr" if held == "stdout" else "stdout"
    child = start(
        f"""
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], {other}=subprocess.DEVNULL)
say(type="note", job_id="a", message=str(left.pid))
time.sleep(600)
"""
    )
    child.next()
    left_behind = psutil.Process(int(child.next().event.message))
    try:
        child.worker.kill()
        assert child.worker.close() is not None
        assert left_behind.status() != psutil.STATUS_ZOMBIE, "nobody waited for its end"
    finally:
        left_behind.kill()
        left_behind.wait(PATIENCE_S)
    assert isinstance(child.next(), Gone)


def test_a_command_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        WorkerProcess([str(tmp_path / "no-such-program")], tmp_path, print)


def test_the_worker_gets_no_more_than_it_needs(start):
    child = start("say(type='note', job_id='a', message=os.environ['PYTHONUNBUFFERED'])")
    assert child.rest()[1].message == "1"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "does not end"),
        (0, "ended with status 0"),
        (1, "ended with status 1"),
        (-9, "was killed by signal 9 (out of memory?)"),
        (-11, "was killed by signal 11"),
    ],
)
def test_ends_in_words(status, words):
    assert describe_end(status) == words


def test_the_real_worker_refuses_a_device_that_is_not_there(tmp_path):
    """`python -m server.worker`, as the server starts it when nothing else is asked for."""
    heard: queue.Queue = queue.Queue()
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.insert(0, {root!r}); from server.worker.__main__ import main; sys.exit(main())"
    worker = WorkerProcess([sys.executable, "-c", code, "--device", "cuda:99"], tmp_path, heard.put)
    try:
        event = heard.get(timeout=PATIENCE_S).event
        assert isinstance(event, protocol.StartFailed) and "cuda:99" in event.message
        assert isinstance(heard.get(timeout=PATIENCE_S), Gone)
        assert worker.wait(PATIENCE_S) == 1
    finally:
        worker.kill()
        worker.close()
