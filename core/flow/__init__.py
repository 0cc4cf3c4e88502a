"""Rectified flow on plain tensors: schedule, sampler, guidance, training objective."""
