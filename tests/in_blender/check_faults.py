"""What goes wrong between Blender and the server: said in words with a remedy, and survived."""

from __future__ import annotations

import contextlib
import importlib.abc
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import bpy
import harness
from using_the_extension import MUG, app, generate, newest, pump, refusal, until

SERVER = "tiny"
FRESH = True
LIMIT_S = 400


def waiting() -> str:
    """What Generate with `wait` says."""
    return refusal(lambda: bpy.ops.s2mesh.generate(filepath=MUG, seed=1, wait=True))


def line() -> str:
    """The server's line."""
    shown = harness.module("view").server_line(app())
    return " ".join((shown.text, *shown.details))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def somebody(answer: Callable[[str], tuple[int, str, bytes]]) -> Iterator[str]:
    """Another web server on this machine; its address. ``answer``: path to status, type, content."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, content = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_no_server():
    harness.preferences().address = f"http://127.0.0.1:{free_port()}"
    message = waiting()
    assert "Press Start" in message or "Start" in message, message
    until(lambda: "Offline" in line(), "the line")
    assert not len([record for record in app().session.active]), "nothing was sent, nothing waits"
    harness.preferences().address = ""
    assert generate(seed=1).type == "MESH"


def test_a_picture_sent_before_the_server_runs_is_made_when_it_does():
    harness.server.kill()
    until(lambda: app().error is not None or app().panel_was_drawn(), "the end to be noticed")
    assert bpy.ops.s2mesh.generate(filepath=MUG, seed=2) == {"FINISHED"}
    record = newest()
    until(lambda: record.state_text == "Waiting for the server", "its words")
    harness.server.start()
    until(lambda: record.imported, "the mesh")


def test_another_program_at_the_address():
    with somebody(lambda path: (200, "text/html", b"<h1>Gradio</h1>")) as url:
        harness.preferences().address = url
        message = waiting()
        assert "Another program answers" in line(), line()
        assert url in message or "address" in message.lower(), message


def test_a_server_of_another_version():
    health = {"status": "ok", "service": "s2mesh", "version": "9.0.0", "api": "v9"}
    with somebody(lambda path: (200, "application/json", json.dumps(health).encode())) as url:
        harness.preferences().address, harness.preferences().token = url, "anything"
        message = waiting()
        assert "another version" in line(), line()
        assert "9" in message, message


def test_a_wrong_token():
    harness.preferences().address, harness.preferences().token = harness.server.url, "wrong"
    message = waiting()
    assert "token" in message.lower() and "s2mesh token" in message, message
    assert "does not accept the token" in line(), line()
    harness.preferences().token = harness.server.token
    assert generate(seed=1).type == "MESH"


def test_an_address_that_is_none():
    harness.preferences().address = "http://127.0.0.1:99999"
    assert "127.0.0.1:8493" in waiting()
    harness.preferences().address = ""


def test_killed_in_the_middle_and_started_again():
    harness.server.fault("slow", "structure")
    try:
        assert bpy.ops.s2mesh.generate(filepath=MUG, seed=3, dense_steps=20) == {"FINISHED"}
        record = newest()
        until(lambda: record.job and record.job.stage == "structure", "its stage")
        harness.server.kill()
        until(lambda: app().error is not None, "the end to be noticed")
        assert record.error is None and not record.finished
    finally:
        harness.server.no_fault()
    harness.server.start()
    until(lambda: record.imported, "the mesh")
    assert record.job.attempt == 2 or record.job.state == "succeeded"


def test_proxies_of_the_environment_are_not_asked():
    names = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    os.environ.update(dict.fromkeys(names, f"http://127.0.0.1:{free_port()}"))
    try:
        app().connect_anew()
        assert generate(seed=4).type == "MESH"
    finally:
        for name in names:
            del os.environ[name]


def test_online_access_is_for_other_machines():
    assert not bpy.app.online_access
    assert generate(seed=4).type == "MESH"
    harness.preferences().address = "http://192.0.2.7:8493"
    harness.preferences().token = "x"
    message = waiting()
    assert "Online Access" in message and "Preferences" in message, message
    assert "Online Access is off" in line(), line()
    message = refusal(lambda: bpy.ops.s2mesh.install_server(confirmed=True))
    assert "Online Access" in message, message


def test_installing_tells_the_sizes_and_asks():
    message = refusal(lambda: bpy.ops.s2mesh.install_server())
    assert "GB" in message and "confirmed" in message, message


class _NoRequests(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "requests":
            raise ModuleNotFoundError("No module named 'requests'", name="requests")


def test_a_blender_without_requests_says_so():
    finder = _NoRequests()
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "requests"}
    sys.meta_path.insert(0, finder)
    try:
        harness.disable()
        harness.enable()
        message = waiting()
        assert "requests" in message and "blender.org" in message, message
        assert "lacks a module" in line(), line()
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(kept)
    app().look_again()
    assert generate(seed=4).type == "MESH"


def test_a_picture_that_is_none():
    broken = harness.work / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 100)
    for path in (broken, harness.work / "missing.png", harness.work):
        message = refusal(lambda path=path: bpy.ops.s2mesh.generate(filepath=str(path), wait=True))
        assert path.name in message or "picture" in message.lower(), message
    assert "no image Nothing" in refusal(lambda: bpy.ops.s2mesh.generate(image="Nothing", wait=True))
    assert "No picture is chosen" in refusal(lambda: bpy.ops.s2mesh.generate(wait=True))


def test_a_result_that_is_deleted_meanwhile():
    harness.server.fault("slow", "structure")
    try:
        bpy.ops.s2mesh.generate(filepath=MUG, seed=5, dense_steps=10)
        record = newest()
        until(lambda: record.id, "the job")
        bpy.ops.s2mesh.cancel(job_id=record.id, wait=True)
        bpy.ops.s2mesh.delete_job(job_id=record.id)
        until(lambda: app().session.find(record.id) is None, "it to be gone")
    finally:
        harness.server.no_fault()
    pump(0.2)
    assert "no job" in refusal(lambda: bpy.ops.s2mesh.import_result(job_id=record.id))


def test_a_server_of_our_own_starts_stops_and_goes_with_the_extension():
    """The real server in its own Python; here the tiny one's command stands for the installed one's."""
    control = harness.module("server_control")
    data = harness.work / "own"
    command = [*harness.server.command]
    given = json.loads(command[-1])
    given.pop("parent_pid")
    command[-1] = json.dumps({**given, "data_dir": str(data), "port": 0})
    data.mkdir()
    program = harness.work / "serve.py"
    program.write_text(
        f"import sys, runpy\nsys.argv[:] = {command[1:]!r}\nrunpy.run_path({command[1]!r}, run_name='__main__')\n"
    )
    harness.preferences().data_folder = str(data)
    was, control.command = control.command, lambda: [command[0], str(program)]
    try:
        assert bpy.ops.s2mesh.start_server(wait=True) == {"FINISHED"}
        assert app().owns_server and app().is_online and harness.module("server_control").log_path().exists()
        assert generate(seed=6).type == "MESH"
        pid = app().seen.ready.worker_pid
        assert bpy.ops.s2mesh.stop_server() == {"FINISHED"}
        until(lambda: not app().owns_server, "its end")
        assert bpy.ops.s2mesh.open_log() == {"FINISHED"} and bpy.data.texts["S2 Mesh Log"].as_string().strip()
        until(lambda: bpy.ops.s2mesh.start_server.poll(), "the button")
        assert bpy.ops.s2mesh.start_server(wait=True) == {"FINISHED"} and pid
        local = harness.module("discovery").find_local(data)
        harness.disable()
        harness.wait_for(lambda: not harness.module("discovery").process_lives(local.pid), "its end")
        harness.enable()
    finally:
        control.command = was


def test_a_server_that_cannot_start_says_why():
    harness.preferences().server_folder = str(harness.work)
    harness.preferences().data_folder = str(harness.work / "empty")
    harness.preferences().address = f"http://127.0.0.1:{free_port()}"
    message = refusal(lambda: bpy.ops.s2mesh.start_server())
    assert "not installed" in message and "Install Server" in message, message
    assert "cannot start" in line() or "Looking" in line() or "Offline" in line(), line()
