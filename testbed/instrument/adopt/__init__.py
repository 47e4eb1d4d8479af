"""Taking in an ONNX file of another exporter."""
