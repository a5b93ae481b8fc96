"""Criteria of importance, one a file: which weights, channels or heads a network can spare."""
