"""Training: one resumable loop, and the tasks that it runs."""
