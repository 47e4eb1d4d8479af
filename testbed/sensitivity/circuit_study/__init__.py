"""Circuits of a run folder's model: how faithful they are over their size, and the edges that attribution scores."""
