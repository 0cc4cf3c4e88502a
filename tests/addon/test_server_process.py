"""The server as a child of Blender: the real tiny server started, found, ended; given up when it keeps dying."""

import json
import os
import signal
import subprocess
import sys

import pytest

from blender_addon import server_process
from blender_addon.client import Client
from blender_addon.client_errors import StartFailed
from blender_addon.server_process import ServerProcess, clean_environment
from tests.support.live_server import ROOT, wait_for

DIES = [sys.executable, "-c", "import sys; print('s2mesh: error: the port is taken'); sys.exit(2)"]


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, tiny_models_dir, clock):
    """Makes handles for a command, or the tiny server; what they started is killed at the end."""
    made = []

    def make(command=None, **more):
        if command is None:
            given = {
                "data_dir": str(tmp_path / "data"),
                "worker": {"models_dir": str(tiny_models_dir), "start_at_once": False},
            }
            (tmp_path / "data").mkdir(exist_ok=True)
            command = [sys.executable, str(ROOT / "tests" / "support" / "tiny_server.py"), json.dumps(given)]
        handle = ServerProcess(
            command, tmp_path / "logs" / "server.log", data_dir=tmp_path / "data", clock=clock, **more
        )
        made.append(handle)
        return handle

    yield make
    for handle in made:
        if handle.running:
            handle._process.kill()
            handle._process.wait()


def in_state(handle, *states):
    return wait_for(lambda: (status := handle.poll()).state in states and status, f"{states}: {handle.log_tail()}")


def test_from_start_to_end(make, tmp_path):
    handle = make(parent_pid=os.getpid())
    assert handle.poll().state == "stopped" and not handle.running
    handle.start()
    assert handle.poll().state in ("starting", "running") and handle.running
    status = in_state(handle, "running")
    assert status.owned and status.server.pid == handle._process.pid
    client = Client(status.server.url, status.server.token)
    assert client.ready().ready
    client.close()
    handle.start()  # a second click starts no second one
    assert handle.poll().server.pid == status.server.pid
    assert "http://127.0.0.1" in handle.log_tail()
    handle.stop()
    in_state(handle, "stopped")
    assert handle.poll().error is None and not (tmp_path / "data" / "server.json").exists()


def test_one_that_others_started_is_adopted_and_left_in_peace(make, start_server, tmp_path):
    live = start_server()
    handle = make(DIES)
    handle.start()  # does not start, for there is one
    status = handle.poll()
    assert status.state == "running" and not status.owned and status.server.url == live.url
    assert handle.stop(wait_s=1) is True
    assert live.process.poll() is None and live.ready()["ready"]
    assert handle.poll().state == "stopped"
    assert handle.adopt().url == live.url


def test_adopting_where_there_is_none(make):
    assert make(DIES).adopt() is None


def test_killed_by_the_system_it_is_told_and_started_again(make, clock):
    handle = make()
    handle.start()
    first = in_state(handle, "running").server.pid
    clock.now += 100
    handle._process.send_signal(signal.SIGKILL)
    status = in_state(handle, "ended")
    assert status.exit_status == -9 and "by signal 9" in str(status.error)
    assert handle.restart_if_dead() is True
    assert in_state(handle, "running").server.pid != first
    assert handle.restart_if_dead() is False


def test_a_busy_server_is_not_a_dead_one(make):
    handle = make()
    handle.start()
    in_state(handle, "running")
    handle._process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            assert handle.poll().state == "running" and not handle.restart_if_dead()
    finally:
        handle._process.send_signal(signal.SIGCONT)


def test_it_ends_with_its_parent(make):
    """Blender that crashes ends no child by itself."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as parent:
        handle = make(parent_pid=parent.pid)
        handle.start()
        in_state(handle, "running")
        parent.kill()
        parent.wait()
        assert in_state(handle, "ended").exit_status == 0


def test_a_server_that_keeps_dying_is_given_up_with_its_last_words(make, clock):
    handle = make(DIES)
    handle.start()
    for _ in range(2):
        status = in_state(handle, "ended")
        assert "with status 2: s2mesh: error: the port is taken" in status.error.message and status.error.remedy
        assert not handle.restart_if_dead(), "within five seconds"
        clock.now += 6
        assert handle.restart_if_dead()
    status = in_state(handle, "given_up")
    assert "3 times in a row" in status.error.message
    clock.now += 60
    assert not handle.restart_if_dead()
    handle.start()  # the artist asks for it
    assert in_state(handle, "ended").exit_status == 2


def test_deaths_after_long_lives_are_no_reason_to_give_up(make, clock):
    handle = make(DIES)
    handle.start()
    for _ in range(5):
        handle._process.wait()
        clock.now += 100
        assert handle.poll().state == "ended"
        assert handle.restart_if_dead()


def test_no_second_start_within_five_seconds(make, clock):
    handle = make(DIES)
    handle.start()
    handle._process.wait()
    with pytest.raises(StartFailed, match="a moment ago"):
        handle.start()
    clock.now += 5
    handle.start()


@pytest.mark.parametrize("command", [["/no/such/program"], [], ["\0"]])
def test_a_command_that_does_not_run(make, command):
    handle = make(command)
    with pytest.raises(StartFailed, match="cannot be started.*Install Server"):
        handle.start()
    assert handle.poll().state == "stopped" and handle.stop()


def test_a_log_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    handle = ServerProcess(DIES, tmp_path / "file" / "server.log", data_dir=tmp_path)
    with pytest.raises(StartFailed):
        handle.start()
    assert handle.log_tail() == ""


def test_a_second_stop_kills(make):
    deaf = [
        sys.executable,
        "-c",
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)",
    ]
    handle = make(deaf)
    handle.start()
    wait_for(lambda: "deaf" in handle.log_tail(), "the program")
    assert handle.stop() is False
    assert handle.poll().state == "stopping"
    handle.stop()
    assert in_state(handle, "stopped").exit_status == -9
    clocked = make(deaf)
    clocked.start()
    assert clocked.stop(wait_s=0.2) is True


def test_the_environment_is_clean(make, monkeypatch, tmp_path):
    """Blender's own would lead another Python astray; what the artist set for the server stays."""
    for name in ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "/blender")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    shown = clean_environment()
    assert "/blender" not in shown.values() and shown["CUDA_VISIBLE_DEVICES"] == "1" and shown["PATH"]
    handle = make(
        [sys.executable, "-c", "import os; print(sorted(k for k, v in os.environ.items() if v == '/blender'))"]
    )
    handle.start()
    handle._process.wait()
    assert handle.log_tail().endswith("[]")


def test_long_logs_are_put_aside(make, clock):
    handle = make(DIES)
    handle.log_path.parent.mkdir()
    handle.log_path.write_bytes(b"x" * (server_process._MAX_LOG + 1))
    handle.start()
    handle._process.wait()
    assert handle.log_path.stat().st_size < 1000
    assert handle.log_path.with_name("server.log.1").stat().st_size == server_process._MAX_LOG + 1
