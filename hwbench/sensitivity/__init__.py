"""What each choice loses: a database of candidates, stitched together and run.

network.py    the original, BatchNorm folded: layers, groups, blocks, Gram matrices, which units go first
masks.py      which groups of channels can be taken away by weights of zero alone
solved.py     weights of one layer after cuts of its inputs, at low rank, with zeros held, and rounded
pruned.py     which weights of a layer stay for a sparse format, and what its kernel holds of them
patch.py      replaced weights, roundings and cut branches
precisions.py what a runtime makes of precisions; of the CPU's here, of TensorRT in tensorrt.py
patches.py    a design as a patch
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
