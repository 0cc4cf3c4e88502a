"""Layers that several networks share. They take plain tensors; the sparse ones say so in their names."""
