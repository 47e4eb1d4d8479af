"""What protection costs against what it leaves: latency of deployed files, beside the same faults on each model."""
