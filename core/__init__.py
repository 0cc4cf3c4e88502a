"""The model library of S2 Mesh: one picture to one mesh with Direct3D-S2 (arXiv 2505.17412).

Importing this package loads nothing heavy: ``import core.config`` stays free of torch.
"""

__version__ = "0.1.0"
