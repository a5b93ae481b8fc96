"""Runtimes, one a file. Each is a leaf: nothing imports it, it is reached by its entry point."""
