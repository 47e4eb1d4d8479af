"""Running the planned faults: gates, rounds, the worker, and the rows it gives."""
