"""ONNX models whose large weights stay on disk: read, asked and written with a few megabytes of memory.

A *lean* model is an ordinary ModelProto in which each large weight says where its bytes are: in the file itself, or in one
beside it. What needs the numbers loads them (`loaded`); what only writes them elsewhere streams them (`write_model`).
"""
