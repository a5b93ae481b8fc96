"""CUDA's driver, behind one protocol.

:mod:`hwbench.cuda.driver` says whether there is one, without a package and without a context. :mod:`hwbench.cuda.api`
is what hwbench needs of it: a context, streams, events, buffers, modules, kernels, graphs. pycuda and cuda-python each
implement it, and :func:`hwbench.cuda.choose.open_cuda` takes the one that is installed.
"""
