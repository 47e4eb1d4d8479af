"""Protected engines: ONNX files rewritten so that faults are corrected or detected while they run."""
