"""TensorProto to array and back, checked before anything is allocated.

Every encoding that TF Serving takes is taken: typed fields, `tensor_content`, one value for all
elements. Writing uses the typed fields, as TF Serving does: clients without numpy read `float_val`
and its siblings.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

# A message of a few bytes can claim any shape (one value stands for all elements), so what it
# unpacks to has a limit of its own.
MAX_TENSOR_BYTES = 64 << 20
_STRING_BYTES = 24  # what an empty string takes in a tensor

_VALUE_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.float16: "half_val",
    tf.bfloat16: "half_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int16: "int_val",
    tf.uint16: "int_val",
    tf.int32: "int_val",
    tf.uint32: "uint32_val",
    tf.int64: "int64_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}


class TensorError(ValueError):
    """A tensor of a message is malformed; the message names it."""


def dtype_name(dtype: int) -> str:
    """`DT_FLOAT` for 1; a number that is no dtype as itself."""
    return types_pb2.DataType.Name(dtype) if dtype in types_pb2.DataType.values() else str(dtype)


def shape_text(shape: tensor_shape_pb2.TensorShapeProto) -> str:
    """A shape as `[?,128]`; `<unknown rank>` where even the rank is open."""
    if shape.unknown_rank:
        return "<unknown rank>"
    return "[" + ",".join("?" if d.size < 0 else str(d.size) for d in shape.dim) + "]"


def claimed_elements(proto: tensor_pb2.TensorProto) -> int:
    """How many elements a message says it holds; its size does not tell, see `MAX_TENSOR_BYTES`."""
    return math.prod(max(0, d.size) for d in proto.tensor_shape.dim)


def to_array(
    proto: tensor_pb2.TensorProto, *, name: str, max_bytes: int = MAX_TENSOR_BYTES
) -> np.ndarray:
    """The array of a message; strings come as an object array of `bytes`.

    Args:
      proto: what the other side sent.
      name: the input's or output's name, for messages.
      max_bytes: how much memory it may unpack to.

    Raises:
      TensorError: unsupported dtype, open shape, more values than the shape holds, too large.
    """
    field = _VALUE_FIELDS.get(_known_dtype(proto, name))
    if field is None:
        raise TensorError(f"tensor parsing error: {name}: unsupported {dtype_name(proto.dtype)}")
    dtype = tf.as_dtype(proto.dtype)
    shape = proto.tensor_shape
    if shape.unknown_rank or any(d.size < 0 for d in shape.dim):
        raise TensorError(
            f"tensor parsing error: {name}: shape {shape_text(shape)}, "
            "expected every dimension to be known"
        )
    elements = math.prod(d.size for d in shape.dim)
    itemsize = _STRING_BYTES if dtype == tf.string else dtype.size
    if elements * itemsize > max_bytes:
        raise TensorError(
            f"tensor parsing error: {name}: shape {shape_text(shape)} unpacks to "
            f"{elements * itemsize} bytes, more than the {max_bytes} that are allowed"
        )
    values = len(getattr(proto, field))
    if values > elements:
        raise TensorError(
            f"tensor parsing error: {name}: {values} values for shape {shape_text(shape)}, "
            f"expected {elements}"
        )
    try:
        if dtype == tf.string:
            return _strings(proto, [d.size for d in shape.dim], elements)
        return tf.make_ndarray(proto)
    except (tf.errors.InvalidArgumentError, ValueError, OverflowError) as e:
        raise TensorError(
            f"tensor parsing error: {name}: tensor_content of {len(proto.tensor_content)} bytes "
            f"and {values} values do not hold {dtype_name(proto.dtype)} of shape "
            f"{shape_text(shape)}"
        ) from e


def _strings(proto: tensor_pb2.TensorProto, shape: list[int], elements: int) -> np.ndarray:
    """Text of a message; the last value stands for all that are left out."""
    if proto.tensor_content:  # lengths, then characters: only TensorFlow's own parser reads it
        return np.asarray(tf.io.parse_tensor(proto.SerializeToString(), tf.string).numpy(), object)
    values = list(proto.string_val)
    values.extend(values[-1:] * (elements - len(values)) or [b""] * (elements - len(values)))
    array = np.empty(elements, object)
    array[:] = values
    return array.reshape(shape)


def _known_dtype(proto: tensor_pb2.TensorProto, name: str) -> tf.DType | None:
    try:
        return tf.as_dtype(proto.dtype)
    except TypeError as e:
        raise TensorError(
            f"tensor parsing error: {name}: unsupported {dtype_name(proto.dtype)}"
        ) from e


def to_proto(values: Any, *, name: str) -> tensor_pb2.TensorProto:
    """A tensor, array, list or scalar as a message.

    Args:
      values: text is sent as UTF-8; an array keeps its dtype, so say int64 where int64 is meant.
      name: for messages.

    Raises:
      TensorError: a dtype that has no place in the protocol, or a ragged list.
    """
    if isinstance(values, tf.Tensor):
        values = values.numpy()
    try:
        array = np.asarray(values)
        if array.dtype.kind in "OSU":
            flat = [_utf8(value, name) for value in np.asarray(values, dtype=object).ravel()]
            dtype = tf.string
        else:
            dtype = tf.as_dtype(array.dtype)
            half = dtype in (tf.float16, tf.bfloat16)
            flat = (array.view(np.uint16) if half else array).ravel().tolist()
        field = _VALUE_FIELDS[dtype]
    except (ValueError, TypeError, KeyError) as e:
        raise TensorError(f"{name} cannot be sent as a tensor: {e}") from e
    proto = tensor_pb2.TensorProto(
        dtype=dtype.as_datatype_enum,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(
            dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
        ),
    )
    getattr(proto, field).extend(flat)
    return proto


def _utf8(value: Any, name: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8")
    if isinstance(value, bytes):
        return value
    raise TypeError(f"expected text or bytes, got {value!r}")
