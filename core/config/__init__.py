"""Configuration as frozen dataclasses. Standard library only: free of torch, safe to import anywhere."""
