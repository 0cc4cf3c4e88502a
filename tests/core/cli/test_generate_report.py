"""What the command tells: a bar on a terminal, the result, memory."""

import io
import sys

import torch

from core.cli.generate_report import peak_memory, result_line, shown_progress
from core.config.stages import stage_names
from core.pipeline.progress import Progress
from tests.support.tiny_presets import TINY_REFINED

STAGES = stage_names(TINY_REFINED)


def test_a_terminal_gets_a_bar_with_stage_and_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    with shown_progress("mug.png", STAGES, quiet=False) as show:
        for stage in STAGES:
            show(Progress(stage, 0, 2))
            show(Progress(stage, 2, 2))
    text = screen.getvalue()
    for word in ("mug.png", "cleanup 2/2", "100%", "left"):
        assert word in text
    assert text.endswith("\x1b[2K")  # the bar is taken away again


def test_quiet_shows_nothing(capsys):
    with shown_progress("mug.png", STAGES, quiet=True) as show:
        show(Progress("image", 2, 2))
    assert capsys.readouterr() == ("", "")


def test_peak_memory_of_this_process():
    assert 2**26 < peak_memory(torch.device("cpu")) < 2**36


def test_the_line_leaves_out_what_is_not_known():
    facts = {"output": "m.glb", "vertices": 3, "faces": 1, "watertight": False, "seconds": 2.04}
    line = result_line({**facts, "peak_memory_bytes": None})
    assert line == "m.glb: 3 vertices, 1 faces, not watertight, 2.0 s"
    assert result_line({**facts, "peak_memory_bytes": 3 << 29}).endswith(", 1.50 GiB peak memory")
