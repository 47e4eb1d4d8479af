"""The passes of protection, ONNX to ONNX, each with what it requires, what it adds and what it ensures."""
