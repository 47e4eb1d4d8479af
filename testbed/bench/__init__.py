"""Latency of engines as they would be deployed: never of an instrumented one."""
