"""Slow and obvious definitions of the ops: what the fast ones must agree with."""
