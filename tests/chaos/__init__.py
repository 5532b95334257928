"""Faults on a Ray cluster of several nodes in namespaces of its own; `python -m tests.chaos` runs them."""
