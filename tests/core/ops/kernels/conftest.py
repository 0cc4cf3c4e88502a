"""Where kernels are tried: in Triton's interpreter on the CPU, or on the GPU if there is one."""

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Of all tensors of these tests."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
