"""Triton kernels of the ops, imported only where they run. Every one has its torch twin one level up.

Files end at what one kernel family needs; ``launch.py`` starts them all. Index arithmetic is by pointers (Triton 3.9
has no block pointers), scores are in base 2 (``exp2``), sums are float32.
"""
