"""TensorProto to array and back."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving import tensors


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        "float64",
        "float16",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "bool",
    ],
)
def test_numbers_survive_the_round_trip(dtype):
    array = np.array([[0, 1, 2], [3, 100, 0]]).astype(dtype)

    back = tensors.to_array(tensors.to_proto(array, name="x"), name="x")

    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_bfloat16_survives_the_round_trip():
    tensor = tf.constant([1.0, -2.5], tf.bfloat16)

    back = tensors.to_array(tensors.to_proto(tensor, name="x"), name="x")

    assert back.dtype == tf.bfloat16.as_numpy_dtype
    np.testing.assert_array_equal(back.astype(np.float32), [1.0, -2.5])


@pytest.mark.parametrize("values", [["mug", "Tasse ☕"], np.array(["mug", "Tasse ☕"])])
def test_text_is_sent_as_utf8_and_comes_back_as_bytes(values):
    back = tensors.to_array(tensors.to_proto(values, name="x"), name="x")

    assert back.tolist() == [b"mug", "Tasse ☕".encode()]


def test_bytes_keep_their_trailing_zeros():
    back = tensors.to_array(tensors.to_proto([b"a\0", b"\0"], name="x"), name="x")

    assert back.tolist() == [b"a\0", b"\0"]


@pytest.mark.parametrize("value", [np.int32(7), "seven"])
def test_a_scalar_stays_a_scalar(value):
    back = tensors.to_array(tensors.to_proto(value, name="x"), name="x")

    assert back.shape == ()
    assert back.item() in (7, b"seven")


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_empty_tensors_keep_their_shape(shape):
    proto = tensors.to_proto(np.zeros(shape, np.float32), name="x")

    assert tensors.to_array(proto, name="x").shape == shape


def test_floats_are_written_to_the_typed_field():
    """Clients without numpy read float_val, which is where TF Serving puts floats."""
    proto = tensors.to_proto(np.array([1.5, 2.0], np.float32), name="x")

    assert list(proto.float_val) == [1.5, 2.0]
    assert proto.tensor_content == b""


@pytest.mark.parametrize("text", [False, True])
def test_packed_content_is_read(text):
    tensor = tf.constant([["a", "bc"]]) if text else tf.constant([[1, 2]])
    proto = tf.make_tensor_proto(tensor)  # packs numbers
    if text:  # what a C++ client sends for strings: lengths, then characters
        proto.ClearField("string_val")
        proto.tensor_content = b"\x01\x02abc"

    np.testing.assert_array_equal(tensors.to_array(proto, name="x"), tensor)


def test_one_value_stands_for_all_elements():
    proto = tensors.to_proto(np.zeros((2, 2), np.int64), name="x")
    proto.ClearField("int64_val")
    proto.int64_val.append(5)

    assert tensors.to_array(proto, name="x").tolist() == [[5, 5], [5, 5]]


@pytest.mark.parametrize(
    ("values", "expected"), [(["a", "b"], [b"a", b"b", b"b"]), ([], [b""] * 3)]
)
def test_the_last_text_stands_for_those_left_out(values, expected):
    proto = tensors.to_proto(np.array(values, object), name="x")
    proto.tensor_shape.dim[0].size = 3

    assert tensors.to_array(proto, name="x").tolist() == expected


def _proto(dtype=types_pb2.DT_FLOAT, shape=(1,), **fields) -> tensor_pb2.TensorProto:
    proto = tensor_pb2.TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (_proto(dtype=0), "x: unsupported DT_INVALID"),
        (_proto(dtype=999), "x: unsupported 999"),
        (_proto(dtype=types_pb2.DT_VARIANT), "x: unsupported DT_VARIANT"),
        (_proto(shape=(-1, 2)), r"x: shape \[\?,2\], expected every dimension to be known"),
        (_proto(shape=(2,), float_val=[1, 2, 3]), r"x: 3 values for shape \[2\], expected 2"),
        (
            _proto(shape=(2,), tensor_content=b"abc"),
            r"content of 3 bytes and 0 values do not hold DT_FLOAT",
        ),
        (_proto(types_pb2.DT_UINT8, shape=(1,), int_val=[300]), "1 values do not hold DT_UINT8"),
        (_proto(shape=(1 << 40, 1 << 40), float_val=[1]), r"unpacks to 4835703278458516698824704"),
        (
            _proto(types_pb2.DT_STRING, shape=(1 << 30,), string_val=[b""]),
            "more than the 67108864",
        ),
    ],
)
def test_malformed_tensors_are_refused_by_name(proto, message):
    with pytest.raises(tensors.TensorError, match=message):
        tensors.to_array(proto, name="x")


@pytest.mark.parametrize("values", [[[1], [2, 3]], [object()], np.array([1j]), [None, "a"]])
def test_values_that_are_no_tensor_are_refused_by_name(values):
    with pytest.raises(tensors.TensorError, match="title cannot be sent"):
        tensors.to_proto(values, name="title")
