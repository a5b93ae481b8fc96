"""Where the time went: two measurements of the same network, layer by layer.

    select.py   which measurement of a saved result is meant
    alike.py    whether two models are one network, or one before and after a change
    align.py    which units of A and which of B stand for the same source layers
    gather.py   rows put together by module or by op
    compare.py  the whole: conditions, rows, residual, uncertainty

Two runtimes fuse differently, so their units do not pair up one to one. Units are tied to the source layers that they
stand for; what is tied together, over as many layers as it takes, is one row. Pure functions of saved results.
"""
