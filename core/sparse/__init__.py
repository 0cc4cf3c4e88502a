"""The sparse tensor, its bookkeeping (shared per coordinate set) and the modules that act on it."""
