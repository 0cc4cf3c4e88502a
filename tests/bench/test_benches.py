"""The benchmarks at tiny sizes on this CPU, so that they run when a GPU is there; nothing here is about time."""

import json
import math
from xml.etree import ElementTree

import pytest
import torch

from core.config.models import SSAConfig
from core.ops.submanifold_conv import submanifold_conv3d
from core.sparse.neighbors import neighbor_map
from tests.bench import block, conv, report, ssa
from tests.bench.parts import authors, floors, plain_conv, results, shells
from tests.bench.parts.sides import Kernel, Module, one_pass

CONFIG = SSAConfig(num_heads=4, num_kv_heads=2, compression_block=4, selection_block=8, selected_blocks=3)
COMMON = {"config", "tokens", "pass", "dtype", "ms", "peak_mb"}
COLUMNS = {
    ssa: COMMON | {"scope", "sdpa_flash_ms", "cudnn_ms", "authors_ms", "flex_ms", "floor_ms", "graph_ms", "rho"},
    conv: COMMON | {"layer", "voxels", "im2col_ms", "gather_scatter_ms", "floor_ms"},
    block: COMMON | {"scope", "torch_ms", "graph_ms"},
}


@pytest.mark.parametrize("bench", COLUMNS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_tiny_run_has_every_column(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(authors.VARIABLE, raising=False)
    assert bench.main(["--quick", "--backward", "--json", "--results", str(tmp_path)]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = json.loads((tmp_path / "cpu.json").read_text())
    section = bench.__name__.rpartition(".")[2]
    assert printed[1:] == written[section] and printed[0]["ceilings"] == written["ceilings"]
    assert {"device", "torch", "triton", "measured", "ssa", "conv", "block"} <= set(written)
    assert all(rate > 0 for rate in written["ceilings"].values())
    for row in written[section]:
        assert set(row) >= COLUMNS[bench]
        assert math.isfinite(row["ms"]) and row["ms"] > 0
        assert row["peak_mb"] is None  # of a GPU only
    assert {row["pass"] for row in written[section]} == {"forward", "backward"}


def test_what_is_missing_is_said_in_the_row(tmp_path, monkeypatch):
    monkeypatch.setenv(authors.VARIABLE, str(tmp_path))  # holds no package
    assert ssa.main(["--quick", "--results", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "cpu.json").read_text())["ssa"]
    assert all(row["authors_ms"] is None and "cannot be imported" in row["problems"]["authors"] for row in rows)
    assert any("again_ms" in row for row in rows)


def test_a_section_replaces_itself_and_no_other(tmp_path):
    described = {"device": "NVIDIA H100 80GB HBM3", "torch": "2", "triton": "3", "measured": "2026-01-01"}
    results.merge(tmp_path, described, {"copy_tb_s": 3.0}, "ssa", [{"ms": 1}], {})
    results.merge(tmp_path, described, {"copy_tb_s": 3.1}, "conv", [{"ms": 2}], {})
    path = results.merge(tmp_path, described, {"copy_tb_s": 3.2}, "ssa", [{"ms": 3}], {})
    assert path.name == "nvidia-h100-80gb-hbm3.json"
    found = json.loads(path.read_text())
    assert (found["ssa"], found["conv"], found["block"]) == ([{"ms": 3}], [{"ms": 2}], [])
    assert found["ceilings"] == {"copy_tb_s": 3.2}


def test_counts_are_those_of_a_walk_over_all_tokens():
    problem = shells.make_problem(500, 32, CONFIG, "iid", torch.float32, torch.device("cpu"), shift=4)
    work = floors.count(problem)
    cells = {tuple(cell) for cell in (problem.x.coords[:, 1:] // 4).tolist()}
    blocks = [tuple(block) for block in (problem.x.coords[:, 1:] // 8).tolist()]
    windows = [tuple(window) for window in ((problem.x.coords[:, 1:] + 4) // 8).tolist()]
    numbered = sorted(set(blocks))
    assert (work.tokens, work.cells, work.blocks) == (len(blocks), len(cells), len(numbered))
    assert work.cell_scores == 4 * len(blocks) * len(cells)
    assert work.window_scores == 4 * sum(windows.count(window) for window in windows)
    chosen = [numbered[i] for i in problem.chosen.flatten().tolist() if i >= 0]
    assert work.selected_scores == 2 * sum(blocks.count(block) for block in chosen)
    assert len(chosen) == 2 * len(blocks) * min(3, len(numbered))
    assert floors.union_ratio(problem.chosen, problem.windows, 1) == 1
    alike = problem.chosen[:, :1].expand_as(problem.chosen)
    assert floors.union_ratio(alike, problem.windows, 4) == 1
    assert 1 < floors.union_ratio(problem.chosen, problem.windows, 4) <= 4


def test_floors_of_a_known_size():
    """131,072 tokens of v1.1 at the rates of an H200: the design has 4.9 and 6.3 ms."""
    scores = 32 * 131_072
    work = floors.Work(
        tokens=131_072, cells=1_270, blocks=1_270, heads=32, groups=2, channels=32, itemsize=2,
        cell_scores=scores * 1_270, selected_scores=scores * 1_040, window_scores=scores * 150,
    )  # fmt: skip
    ceilings = {"copy_tb_s": 4.3, "gemm_bf16_tflops": 790.0, "exp2_t_s": 3.8}
    forward, backward = (floors.floor_ms(work, ceilings, torch.bfloat16, b)["total"] for b in (False, True))
    assert forward == pytest.approx(4.9, rel=0.03) and backward == pytest.approx(6.3, rel=0.03)
    assert floors.dense_floor_ms(work, ceilings, torch.bfloat16, False) == pytest.approx(145, rel=0.01)


@pytest.mark.parametrize("tokens", [300, 4_096, 45_900])
def test_shells_have_about_the_tokens_asked_for(tokens):
    coords = shells.shell(tokens)
    assert abs(len(coords) - tokens) < (0.15 if tokens < 1000 else 0.02) * tokens
    assert len(coords.unique(dim=0)) == len(coords) and int(coords.min()) >= 0 and int(coords.max()) < 128


def test_plain_convolutions_compute_the_same():
    coords = shells.shell(120)
    feats, weight, bias = torch.randn(len(coords), 6), torch.randn(27, 6, 5), torch.randn(5)
    neighbors = neighbor_map(coords)
    expected = submanifold_conv3d(feats, neighbors, weight, bias)
    torch.testing.assert_close(plain_conv.im2col(feats, neighbors, weight, bias), expected, atol=1e-4, rtol=1e-4)
    found = plain_conv.gather_scatter(neighbors)(feats, weight, bias)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scope", [Kernel, Module])
def test_a_twin_computes_the_same_with_tensors_of_its_own(scope):
    problem = shells.make_problem(300, 32, CONFIG, "smooth", torch.float32, torch.device("cpu"))
    side = Kernel(problem, CONFIG, 0) if scope is Kernel else Module(problem, 32, CONFIG, "smooth", 0)
    for tensor in side.inputs:
        tensor.requires_grad_()
    twin = side.twin()
    assert not {id(tensor) for tensor in side.inputs} & {id(tensor) for tensor in twin.inputs}
    expected = one_pass(side.ours, side.inputs, side.grad, True)()
    found = one_pass(twin.ours, twin.inputs, twin.grad, True)()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert all(tensor.grad is None for tensor in (*side.inputs, *twin.inputs))


def test_kernels_of_the_ceilings_do_what_is_counted():
    pytest.importorskip("triton")
    from tests.bench.parts import ceiling_kernels

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out, exponentials = ceiling_kernels.exponentials(2, device, rounds=60)
    assert exponentials == 60 * out.numel()
    torch.testing.assert_close(out, torch.full_like(out, 0.6411857), atol=1e-5, rtol=0)  # where exp2(-x) is x
    source = torch.arange(3, device=device).repeat_interleave(ceiling_kernels.READ_BLOCK).float()
    out, read = ceiling_kernels.reads(source, 2, rounds=5)
    assert read == 5 * out.nbytes
    expected = [sum((program + 97 * i) % 3 for i in range(5)) for program in range(2)]
    assert out.view(2, -1).amin(1).tolist() == out.view(2, -1).amax(1).tolist() == expected


def gpu_results():
    known = {"config": "v1.1", "scope": "kernel", "dtype": "bf16", "regime": "smooth", "shift": 0}
    rest = {"cudnn_ms": 0.7, "authors_ms": None, "peak_mb": 9.0, "of_floor": 0.5, "vs_flash": 27.5, "floor_ms": 0.01}
    rows = [
        {**known, **rest, "tokens": tokens, "pass": direction, "ms": 1.0, "sdpa_flash_ms": 27.5, "graph_ms": None}
        for tokens in (10_656, 130_608)
        for direction in ("forward", "backward")
    ]
    ceilings = {"copy_tb_s": 4.3, "gemm_bf16_tflops": 790.0}
    found = {"device": "NVIDIA <X>", "torch": "2.11", "triton": "3.6", "measured": "2026-02-02", "ceilings": ceilings}
    return {**found, "ssa": rows, "conv": [], "block": []}


def test_report_writes_between_the_comments_alone(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    report.write(tmp_path, readme)
    assert readme.read_text() == f"before\n{report.BEGIN}\n{report.NOTHING}\n{report.END}\nafter\n"
    older = {**gpu_results(), "device": "older", "measured": "2025-02-02"}
    for found in (gpu_results(), older, {"device": "cpu", "measured": "2027-01-01"}):
        (tmp_path / f"{results.slug(found['device'])}.json").write_text(json.dumps(found))
    report.write(tmp_path, readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text.replace("older", "")
    assert "NVIDIA <X>" in text and "| v1.1 | 130608 | smooth | forward | kernel | 1 | 27.5 |" in text
    assert "| v1.1, 131k, forward: against SDPA flash | >= 25x | 27.5x | met |" in text
    assert "| v1.1, 131k, backward: against SDPA flash | >= 30x | 27.5x | missed |" in text
    assert "| decoder convolutions, 131k latents | <= 30 ms | not measured |" in text
    svg = ElementTree.fromstring((tmp_path / "nvidia-x.svg").read_text())
    assert svg.tag.endswith("svg") and len(svg.findall("{http://www.w3.org/2000/svg}circle")) == 16


def test_report_refuses_a_page_without_its_comments(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit, match="no section"):
        report.write(tmp_path, readme)
    assert readme.read_text() == "nothing"


def test_the_repository_s_page_has_the_section():
    text = report.README.read_text(encoding="utf-8")
    assert text.count(report.BEGIN) == text.count(report.END) == 1
