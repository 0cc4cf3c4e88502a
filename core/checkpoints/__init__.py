"""Weights on disk: our safetensors files, strict loading, conversion of the released checkpoints."""
