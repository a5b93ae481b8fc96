"""Mend a compressed network without training it, one repair a file."""
