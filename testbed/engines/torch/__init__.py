"""PyTorch as an engine: the reference that runs any ONNX graph node by node."""
