"""Processes: isolated children, memory limits, native libraries."""
