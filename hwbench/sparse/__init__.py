"""Sparse weights: formats that the kernels in ``kernels/`` read, and the kernels themselves.

A format packs a pruned matrix and unpacks it again, and tells how many bytes it takes (:mod:`hwbench.sparse.formats`).
``kernels/manifest.toml`` says what each kernel takes and may use (:mod:`hwbench.sparse.manifest`);
:mod:`hwbench.sparse.build` compiles it, :mod:`hwbench.sparse.launch` puts it on a GPU.
"""
