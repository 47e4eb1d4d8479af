"""Evaluation of activation faults by suffix replay: only what the fault can change is run."""
