"""Commands: each module parses arguments, makes one call, and returns an exit status."""
