"""Evaluation of weight faults: what follows the faulty weight is run, over all images."""
