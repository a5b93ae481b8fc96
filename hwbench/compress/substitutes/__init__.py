"""Cheaper operators in the place of others, and what they cost in accuracy."""
