"""Patterns of a transformer's graph: attentions, MLPs, residual joints and the branches between them."""
