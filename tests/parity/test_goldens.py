"""Every golden file kept here, through the cases of the parity command, at tolerances that mean something."""

from pathlib import Path

import pytest

from core.cli.parity_cases import CASES, run_file

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted([*GOLDEN.glob("*.safetensors*"), *GOLDEN.glob("*.json")])
MODULE, STACK = 1e-5, 1e-4  # relative RMS error of a single module; of a stack of them, or a gradient
STACKS = ("dense_dit", "dense_shape_vae", "sparse_dit", "sparse_sdf_vae", "sample_", "unet3d")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.partition(".")[0])
def test_golden(path):
    comparisons = run_file(path)
    assert comparisons
    for comparison in comparisons:
        stack = path.name.startswith(STACKS) or comparison.tensor.startswith("grad.")
        assert comparison.error < (STACK if stack else MODULE), comparison


def test_selection_fits_in_the_tree_that_travels():
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) <= 12e6


def test_every_module_has_a_case():
    assert {
        "spatial_sparse_attention",
        "sparse_dit",
        "dense_dit",
        "dense_shape_vae",
        "sparse_sdf_vae",
        "unet3d",
        "adaptive_block",
        "geo_decoder",
        "timestep_embedder",
        "sort_block",
        "preprocess_image",
        "mesh_to_active_voxels",
        "sample_sparse",
        "sample_dense",
    } == CASES.keys()
