"""Criteria of importance, one a file: which weights, or which output channels, a network can spare.

``criteria`` names them all and computes them; ``base`` says what one is. A score is not negative, and higher means more
important.
"""
