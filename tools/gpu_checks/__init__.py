"""What tools/gpu_check.py checks, one module per subject."""
