"""TensorRT as an engine, and the building of its engine files."""
