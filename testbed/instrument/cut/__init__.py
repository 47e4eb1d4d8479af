"""Cutting a graph: its flow, segments, stages and tokens."""
