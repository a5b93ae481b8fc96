"""The model: from a torch module, a .pt2, an ONNX file or the zoo to the ONNX hub, and its layers."""
