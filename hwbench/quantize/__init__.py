"""Quantisation: ranges, repairs, and the arithmetic that all runtimes share."""
