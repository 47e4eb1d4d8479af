"""The order of a protected file's nodes, which decides when engines run the checks.

ONNX Runtime goes from the outputs back, and of a node's inputs first to that which was written last. Were checks written
in the order of the network, they would all run at its end, on tensors that have left the cache.
"""

from __future__ import annotations

import heapq

from onnx import ModelProto, NodeProto


def order_for_cache(proto: ModelProto) -> None:
    """Write what only checks need behind all else, the last of the network first.

    ONNX Runtime then runs each check right after the tensors that it takes are made.
    """
    nodes = [_copied(node) for node in proto.graph.node]
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needed = _ancestors(nodes, producer, proto.graph.output[0].name)
    network = [index for index in range(len(nodes)) if index in needed]
    checks = _latest_first(nodes, producer, network)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[index] for index in (*network, *checks))


def _copied(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _ancestors(nodes: list[NodeProto], producer: dict[str, int], output: str) -> set[int]:
    """Places of the nodes that an output is computed from."""
    needed: set[int] = set()
    waiting = [producer[output]]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += [producer[name] for name in nodes[index].input if name in producer]
    return needed


def _latest_first(nodes: list[NodeProto], producer: dict[str, int], network: list[int]) -> list[int]:
    """The other nodes, each behind what it takes; of those that may come next, that which hangs on the latest part."""
    depth = {index: position for position, index in enumerate(network)}
    others = [index for index in range(len(nodes)) if index not in depth]
    takes = {index: {producer[name] for name in nodes[index].input if name in producer} for index in others}
    consumers: dict[int, list[int]] = {}
    missing = {}
    for index in others:
        depth[index] = max((depth[source] for source in takes[index]), default=-1)
        inner = [source for source in takes[index] if source in takes]
        missing[index] = len(inner)
        for source in inner:
            consumers.setdefault(source, []).append(index)
    ready = [(-depth[index], index) for index in others if not missing[index]]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, index = heapq.heappop(ready)
        ordered.append(index)
        for consumer in consumers.get(index, []):
            missing[consumer] -= 1
            if not missing[consumer]:
                heapq.heappush(ready, (-depth[consumer], consumer))
    return ordered
