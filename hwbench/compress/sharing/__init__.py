"""Weights of few values: which tensors share a codebook, and the clustering that finds its values."""
