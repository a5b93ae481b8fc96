"""The crossover table: sparse kernels timed beside dense products, shape by shape, on one GPU.

grid.py         what is measured: shapes, rows of X, sparsities, contenders
kernels.py      hwbench's kernels as contenders: packed, rotated through copies, captured
baselines.py    torch's products as contenders: cuBLASLt, compiled, semi-structured, block-sparse, int8, int4
race.py         contenders verified, then timed in turns with an A/A control
measure.py      the story of a table that is measured
expected.py     the table of a GPU that is not attached: the model, labelled
choose.py       which kernel pays at a point, read from a table
saved.py        tables kept, by device, driver and kernels
"""
