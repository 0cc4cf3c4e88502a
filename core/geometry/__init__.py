"""Meshes and grids; knows no networks."""
