"""Fault ports: how they are put into a graph and what they are fed."""
