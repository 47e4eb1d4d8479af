"""Protobuf's wire format: the fields of a message, without reading what they hold."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

BYTES = 2
"""Wire type of what is led by its length: messages, names, raw numbers."""
GRAPH, INITIALIZER, RAW = 7, 5, 9
"""Field numbers of ModelProto, GraphProto, TensorProto."""


def fields(content: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Number, wire type, start, start of the value and end of each field of a message."""
    position = start
    while position < end:
        tag, value = varint(content, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            stop = varint(content, value)[1]
        elif kind == 1:
            stop = value + 8
        elif kind == BYTES:
            length, value = varint(content, value)
            stop = value + length
        elif kind == 5:
            stop = value + 4
        else:
            raise ValueError(f"wire type {kind}")
        if stop > end or not number:
            raise ValueError("a field that ends behind its message")
        yield number, kind, position, value, stop
        position = stop


def varint(content: mmap.mmap | bytes, position: int) -> tuple[int, int]:
    """The number, and the position behind it."""
    number = shift = 0
    while True:
        byte = content[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def key(number: int) -> bytes:
    """What leads a field that is led by its length."""
    return as_varint(number << 3 | BYTES)


def field(number: int, value: bytes) -> bytes:
    """A whole field of such a value."""
    return key(number) + as_varint(len(value)) + value


def as_varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
