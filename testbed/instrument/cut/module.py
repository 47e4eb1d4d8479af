"""The attention module of one block as a plain file of its own, cut out of a file of any origin.

It is fed what the block's norm gives, and gives what is added to the residual stream: as the subnetwork of our own model.
Both ends are found by the sites' names and the graph's structure. What does not depend on the image (biases, masks,
positions) is kept inside; a shape that is taken from the image is made of its numbers and the module's own batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from testbed.core.errors import UsageError
from testbed.core.protected import is_protected
from testbed.core.site import Site
from testbed.instrument.cut.flow import CannotCut, Flow
from testbed.instrument.cut.segments import cut_segment
from testbed.instrument.lean.stored import loaded
from testbed.instrument.quantised import FLOATS
from testbed.instrument.shapes import FORMATS, fixed_batch
from testbed.instrument.sites.catalogue import Catalogue
from testbed.instrument.sites.pattern_graph import LAYOUT

_ELEMENTS = {name: element for element, name in FORMATS.items()}
_PRODUCTS = frozenset(
    ("MatMul", "Gemm", "Conv", "Einsum", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "ConvInteger")
)
_TO_WINDOWS = LAYOUT | {"Pad"}
_NORMS = frozenset(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"))


@dataclass(frozen=True)
class AttentionModule:
    """An attention module cut out. plain: its ONNX file; input, output: the whole file's tensors that it begins and ends
    with; catalogue: of the module's own tensors, with the names that they have in the whole."""

    block: int
    plain: bytes
    input: str
    output: str
    catalogue: Catalogue


def cut_attention(whole: Catalogue, file: str, block: int | None = None) -> AttentionModule:
    """The attention module of a block, the first that has one unless stated. file: name of the whole one, for messages.

    Raises UsageError, with the reason and what to do, for a block that is not there, has no attention, or whose module
    cannot be cut out.
    """
    if is_protected(whole.proto):
        raise UsageError(f"{file} is protected, by checks of the whole of it; take target 'model', or the plain file")
    if fixed_batch(whole.proto):
        raise UsageError(
            f"{file} takes {fixed_batch(whole.proto)} image(s) at a time, and a module is cut out of files of any batch; export"
            " it with a dynamic one, or take target 'model' with sites such as block.1.attn.*"
        )
    blocks = blocks_with_attention(whole)
    if not blocks:
        raise UsageError(f"{file}: no block's attention is recognised in it; take target 'model', with tensors by name")
    numbers = ", ".join(map(str, blocks))
    number = blocks[0] if block is None else block
    if number not in blocks:
        why = whole.missing.get(f"block.{number}.attn") or whole.missing.get(f"block.{number}", "")
        raise UsageError(
            f"{file}: no attention of a block {number} is recognised{f' ({why})' if why else ''}; those of blocks {numbers}"
            " are: name one of these ([attention] block in a spec, attention:N elsewhere)"
        )
    try:
        return _Cutter(whole).module(number)
    except CannotCut as error:
        others = f"name another block ({numbers}), or " if len(blocks) > 1 else ""
        raise UsageError(
            f"{file}: the attention of block {number} cannot be cut out: {error}; {others}take target 'model' with sites"
            f" such as block.{number}.attn.*"
        ) from error


def blocks_with_attention(whole: Catalogue) -> list[int]:
    """Numbers of the blocks in which an attention is named or known to be."""
    named = [site for site in whole.recognised if site.where == "activation" and ".attn." in site.name]
    return sorted({site.block for site in named if site.block is not None})


def with_outputs(proto: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """The file with these of its tensors beside its own outputs."""
    extended = ModelProto()
    extended.CopyFrom(proto)
    known = {value.name for value in proto.graph.output}
    extended.graph.output.extend(ValueInfoProto(name=name) for name in tensors if name not in known)
    return extended


class _Cutter:
    def __init__(self, whole: Catalogue) -> None:
        self._whole = whole
        self._flow = _with_measured(Flow.of(whole.proto), whole)
        self._sites = {site.name: site.tensor for site in whole.recognised if site.where == "activation"}

    def module(self, block: int) -> AttentionModule:
        """Raises CannotCut."""
        output = self._output(block)
        start = self._input(block, output)
        part = cut_segment(self._flow, [start], [output])
        part.graph.name = f"block.{block}.attn"
        part.metadata_props.extend(self._whole.proto.metadata_props)
        _in_float32(part)
        part = loaded(part)
        plain = part.SerializeToString(deterministic=True)
        return AttentionModule(block, plain, start, output, _catalogue_of(self._whole, part))

    # ---- where it ends

    def _output(self, block: int) -> str:
        """What the projection gives, or else what is added to the stream."""
        output = self._sites.get(f"block.{block}.attn.proj", "")
        # not named, or named for the integers that it is quantised to, or joined with windows
        if self._flow.types.get(output) not in FLOATS or not self._is_per_image(output):
            output = self._end_of_branch(block)
        self._flow.per_image(output)
        return output

    def _end_of_branch(self, block: int) -> str:
        """The branch's last tensor, without a norm, a layer scale and another layout behind it, where these are led by the
        batch."""
        end, _ = self._joint(block)
        chosen = end
        while (node := self._node(end)) is not None and len(self._flow.live_inputs(node)) == 1:
            if not (node.op_type in LAYOUT | _NORMS or (node.op_type == "Mul" and len(node.input) == 2)):
                break
            (end,) = self._flow.live_inputs(node)
            if node.op_type not in LAYOUT and self._is_per_image(end):
                chosen = end
        return chosen

    def _joint(self, block: int) -> tuple[str, str]:
        """(end of the branch, stream), the operands of the residual addition."""
        name = f"block.{block}.attn.residual"
        node = self._node(self._before_quantised(self._sites.get(name, "")))
        live = [] if node is None else self._flow.live_inputs(node)
        if node is None or node.op_type != "Add" or len(live) != 2:
            names = (f"block.{block}.attn", f"block.{block}.attn.proj", name)
            reasons = [
                f"{lacking}: {self._whole.missing[lacking]}" for lacking in names if lacking in self._whole.missing
            ]
            integers = f"block.{block}.attn.proj" in self._sites
            usual = "it goes on as integers alone" if integers else "no addition to the residual stream is"
            raise CannotCut(f"its output is not recognised ({reasons[0] if reasons else usual})")
        for end, stream in (live, live[::-1]):
            if self._is_made_of(end, stream):
                return end, stream
        raise CannotCut(f"what is added to {name} is not made of the stream alone")

    # ---- where it begins

    def _input(self, block: int, output: str) -> str:
        """The output of the norm that all of the module is made of; where there is none, the last tensor ahead of the module's
        first product of which it is."""
        norm = self._sites.get(f"block.{block}.norm1")
        if norm is not None:
            norm = self._before_quantised(norm)
            if norm != output and self._is_made_of(output, norm) and self._is_per_image(norm):
                return norm
        _, stream = self._joint(block)
        indices = self._flow.between([stream], [output])
        first = next(
            (index for index in indices if self._flow.nodes[index].op_type in _PRODUCTS), len(self._flow.nodes)
        )
        start, norms = stream, []
        for index in indices:
            tensor = self._flow.nodes[index].output[0]
            if index < first and self._is_made_of(output, tensor) and self._is_per_image(tensor):
                start = tensor
                norms += [tensor] if self._flow.nodes[index].op_type in _NORMS else []
        if norms:
            return norms[-1]
        while (node := self._node(start)) is not None and node.op_type in _TO_WINDOWS and start != stream:
            (start,) = self._flow.live_inputs(node)
        self._flow.per_image(start)
        return start

    # ---- the graph

    def _node(self, tensor: str) -> NodeProto | None:
        index = self._flow.producer.get(tensor)
        return None if index is None else self._flow.nodes[index]

    def _is_made_of(self, tensor: str, source: str) -> bool:
        """Whether the image comes to ``tensor`` through ``source`` alone, and does so."""
        try:
            return bool(self._flow.between([source], [tensor]))
        except CannotCut:
            return False

    def _is_per_image(self, tensor: str) -> bool:
        try:
            self._flow.per_image(tensor)
        except CannotCut:
            return False
        return True

    def _before_quantised(self, tensor: str) -> str:
        """The floats that a site's integers are made of."""
        node = self._node(tensor)
        return tensor if node is None or node.op_type != "QuantizeLinear" else node.input[0]


def _with_measured(flow: Flow, whole: Catalogue) -> Flow:
    """And the types and shapes that were measured, of operators that ONNX does not know."""
    measured = {name: tensor for name, tensor in (whole.measured or {}).items() if not tensor.joined}
    shapes = {name: (None, *tensor.shape) for name, tensor in measured.items() if name not in flow.shapes}
    types = {name: _ELEMENTS[tensor.format_name] for name, tensor in measured.items() if name not in flow.types}
    return replace(flow, shapes={**flow.shapes, **shapes}, types={**flow.types, **types})


def _in_float32(part: ModelProto) -> None:
    """Gives the module float32 at both ends, whatever it computes in: what goes in and comes out is stored as that."""
    graph = part.graph
    (fed,), (result,) = graph.input, graph.output
    if (kind := fed.type.tensor_type).elem_type != TensorProto.FLOAT:
        inner, fed.name = fed.name, f"{fed.name}/float32"
        graph.node.insert(0, helper.make_node("Cast", [fed.name], [inner], to=kind.elem_type))
        kind.elem_type = TensorProto.FLOAT
    if (kind := result.type.tensor_type).elem_type != TensorProto.FLOAT:
        inner, result.name = result.name, f"{result.name}/float32"
        graph.node.append(helper.make_node("Cast", [inner], [result.name], to=TensorProto.FLOAT))
        kind.elem_type = TensorProto.FLOAT


def _catalogue_of(whole: Catalogue, part: ModelProto) -> Catalogue:
    """What of the whole file's catalogue the part has."""
    computed = {name for node in part.graph.node for name in node.output}
    stored = {tensor.name for tensor in part.graph.initializer}

    def is_inside(site: Site) -> bool:
        return site.tensor in (computed if site.where == "activation" else stored)

    recognised = tuple(site for site in whole.recognised if is_inside(site))
    measured = None if whole.measured is None else {n: tensor for n, tensor in whole.measured.items() if n in computed}
    shared = {tensor: uses for tensor, uses in whole.shared.items() if tensor in stored}
    return Catalogue(part, recognised, shared=shared, measured=measured)
