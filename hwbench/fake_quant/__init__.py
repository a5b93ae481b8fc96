"""Quantisation simulated in torch, in the arithmetic that each runtime really executes.

:mod:`grids` says which integers stand for which numbers. :mod:`onnxruntime`, :mod:`openvino` and :mod:`litert` each
hold one runtime's arithmetic (accumulators, rounding, saturation); :mod:`place` finds which tensors a runtime rounds,
:mod:`assign` on which grids; :mod:`simulate` turns a torch view into one that computes as the runtime does. For
training there are straight-through estimators (:mod:`straight`) and :mod:`qat`, which puts them around the layers of a
view.
"""
