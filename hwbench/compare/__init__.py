"""Is B faster than A? Two sets of samples in, a verdict out; nothing here measures or renders.

robust.py    levels and locations that a few disturbed blocks do not move
resample.py  how far a log ratio may be off: bootstrap over restarts, or over parts of a saved run
verdict.py   SAME, FASTER, SLOWER or INCONCLUSIVE from that; what would settle it; the looks decided in advance
metrics.py   the metrics, and each of them from interleaved rounds
blocks.py    two sides and a control asked for blocks of inferences in random order
sides.py     what each side is, and what differs
saved.py     two saved measurements: may they be compared, and how do they compare
goals.py     --fail-if
"""
