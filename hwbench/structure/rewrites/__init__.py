"""Rewrites that leave what a network computes as it is, a module for each kind.

A rewrite is a generator of places: nodes that it would change, and how, or why it must not. Nothing is looked up in a
list of networks; a rewrite asks about operators, shapes, constants and who else reads a value.
"""
