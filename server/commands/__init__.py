"""Verbs of the command line that have to do with the server."""
