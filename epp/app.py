"""Builds every room and owns the running process."""
