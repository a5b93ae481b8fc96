"""The torch view of the hub: an ONNX graph as a torch module whose submodules are the hub's layers.

``build.to_torch`` walks the graph once. Each node is a :class:`~hwbench.torch_view.site.Site`; a rule of its operator
(``ops_*.py``) looks at the site and returns a function of tensors; the function and the node's weights make a
:class:`~hwbench.torch_view.layer.Layer`, a submodule under the hub layer's name. Whatever follows from constants and
shapes alone is worked out at once, so nothing that is left depends on data, and ``torch.export`` takes the view.

``tables`` tells which submodule is which hub layer and which parameter is which initialiser, and brings trained weights
back into the hub. For the runtimes that are reached through torch (LiteRT, AOTInductor), and for training.
"""
