"""What each choice loses: a database of candidates, stitched together and run.

network.py    the original, BatchNorm folded: layers, groups, blocks, Gram matrices, which units go first
masks.py      which groups of channels can be taken away by weights of zero alone
solved.py     weights of one layer after cuts of its inputs, at low rank, and rounded
patches.py    a design as a set of replaced weights, roundings and cut branches
flow.py       the torch view run node by node, from any point on
compare.py    outputs held against the original's: divergence, agreement, accuracy
stitch.py     a patch's divergence, run from where it changes anything
screen.py     the Fisher-weighted error of every option, from one backward pass
curve.py      the losses of options that were not run, from those that were
ledger.py     what has been run, on disk, so that a killed run goes on
near.py       which sites lie beside each other, for pair terms
score.py      all of it within a time, to a ``Sensitivity``
worker.py     the child that does it, and then answers questions about whole designs
"""
