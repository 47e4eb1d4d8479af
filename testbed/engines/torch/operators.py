"""ONNX operators as torch functions: inputs by position (None where left out), attributes by name.

Those that exported Vision Transformers, and the twins made from them, consist of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from testbed.engines.torch import words
from testbed.engines.torch.words import from_front, from_numpy


def _ints(values: Tensor | Sequence[int]) -> list[int]:
    return [int(v) for v in (values.tolist() if isinstance(values, Tensor) else values)]


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _constant(**attributes: Any) -> Tensor:
    (value,) = attributes.values()
    if isinstance(value, onnx.TensorProto):
        return from_numpy(np.array(numpy_helper.to_array(value)))
    return torch.tensor(value)  # Python's int and float become int64 and float32, as ONNX has it


def _constant_of_shape(shape: Tensor, *, value: onnx.TensorProto | None = None) -> Tensor:
    fill = torch.zeros(1) if value is None else from_numpy(np.array(numpy_helper.to_array(value)))
    return fill.expand(_ints(shape)).clone()


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    group: int = 1,
    kernel_shape: Sequence[int] = (),
    auto_pad: bytes = b"NOTSET",
) -> Tensor:
    if auto_pad not in (b"NOTSET", b"VALID"):
        raise NotImplementedError(f"Conv with auto_pad {auto_pad.decode()}")
    top, left, bottom, right = pads
    padded = functional.pad(x, (left, right, top, bottom)) if any(pads) else x
    return functional.conv2d(padded, weight, bias, tuple(strides), 0, tuple(dilations), group)


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, _ints(shape)))


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(x.shape[:axis].numel(), -1)


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis %= x.dim()
    places = from_front(indices, x.shape[axis])
    return x.index_select(axis, places.reshape(-1)).reshape(x.shape[:axis] + places.shape + x.shape[axis + 1 :])


def _gelu(x: Tensor, *, approximate: bytes = b"none") -> Tensor:
    return functional.gelu(x, approximate=approximate.decode())


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    a, b = a.T if transA else a, b.T if transB else b
    product = _matmul(a[:, None], b)[:, 0]
    product = product * alpha if alpha != 1 else product
    return product if c is None else product + (c * beta if beta != 1 else c)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """One product per row of the batch: in one large product, a row's last bits depend on how many rows there are."""
    if a.dim() == 3 and b.dim() == 2 and len(a) > 1:
        return torch.bmm(a, b.expand(len(a), *b.shape))
    return torch.matmul(a, b)


def _layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    return functional.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def _mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A reduction over axes, by torch's function of (x, axes, keepdim)."""

    def reduced(
        x: Tensor,
        axes: Tensor | Sequence[int] | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        over = [] if axes is None else _ints(axes)
        if not over and noop_with_empty_axes:
            return x
        return function(x, over or list(range(x.dim())), bool(keepdims))

    return reduced


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = [x.shape[i] if size == 0 and not allowzero else size for i, size in enumerate(_ints(shape))]
    return x.reshape(sizes)


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(x.shape[start:end])


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    firsts, lasts = _ints(starts), _ints(ends)
    over = list(range(len(firsts))) if axes is None else _ints(axes)
    strides = [1] * len(firsts) if steps is None else _ints(steps)
    where = [slice(None)] * x.dim()
    for axis, first, last, stride in zip(over, firsts, lasts, strides, strict=True):
        taken = range(*slice(first, last, stride).indices(x.shape[axis]))  # both ends may lie far outside
        if stride < 0:  # PyTorch's own slices only go forward
            x = x.index_select(axis, torch.tensor(taken, dtype=torch.int64, device=x.device))
        else:
            where[axis] = slice(taken.start, taken.stop, stride)
    return x[tuple(where)]


def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return x.softmax(axis)


def _split(
    x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Tensor, ...]:
    if sizes is not None:
        return x.split(_ints(sizes), axis)
    return x.tensor_split(1 if num_outputs is None else num_outputs, axis)


def _squeeze(x: Tensor, axes: Tensor | Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


def _unsqueeze(x: Tensor, axes: Tensor | Sequence[int]) -> Tensor:
    rank = x.dim() + len(_ints(axes))
    for axis in sorted(axis % rank for axis in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def _transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(list(reversed(range(x.dim()))) if perm is None else list(perm))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "BitCast": words.bit_cast,
    "BitwiseAnd": words.bitwise(torch.bitwise_and),
    "BitwiseOr": words.bitwise(torch.bitwise_or),
    "BitwiseXor": words.bitwise(torch.bitwise_xor),
    "Cast": words.cast,
    "CastLike": lambda x, like, saturate=1: x.to(like.dtype),
    "Clip": torch.clamp,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "DequantizeLinear": words.dequantize,
    "Div": _div,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": words.gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "LayerNormalization": _layer_normalization,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "MatMul": _matmul,
    "Mod": _mod,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Pow": torch.pow,
    "QuantizeLinear": words.quantize,
    "Range": _range,
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "ScatterElements": words.scatter_elements,
    "Shape": _shape,
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": torch.sqrt,
    "Squeeze": _squeeze,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
    "testbed.FaultPort": words.fault_port,
}
"""By operator type; of a domain other than ONNX's own: domain.type."""
MANY_OUTPUTS = ("Split", "testbed.FaultPort")
