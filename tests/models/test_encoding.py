"""Values of a model in its file: the same afterwards, or refused by name."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from hpvade.models._encoding import decode, encode


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2**60,
        0.1,
        float("inf"),
        -0.0,
        "é\ud7ff",
        (1, (2, None)),
        [1, "a", 2.5],
        {"a": {"b": (1,)}},
        {1: "one", (2, 3): "two"},
        {"__type__": "mine"},
        np.float32(0.1),
        np.int64(7),
        np.bool_(True),
        np.str_("x"),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.array([0.1, np.nan, -np.inf], dtype=np.float32),
        np.array(["a", "bb"]),
        np.array(["a", 1, None, 2.5], dtype=object),
        np.array([True, False]),
        np.array(5.0),
        np.zeros((0, 4), dtype=np.uint8),
        np.array([[1, 2], None], dtype=object),
        np.arange(3, dtype=">i4"),
    ],
    ids=repr,
)
def test_encoding_is_exact(value):
    text = json.dumps(encode(value, "value"), allow_nan=False)
    back = decode(json.loads(text))
    assert type(back) is type(value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype and back.shape == value.shape
        np.testing.assert_array_equal(back, value)
    else:
        assert back == value
        assert repr(back) == repr(value)  # -0.0, and the types inside


def test_encoding_of_data_frames_is_exact():
    frame = pd.DataFrame(
        {
            "f": np.array([0.1, np.nan, 2], dtype=np.float32),
            "o": [1, "a", None],
            "c": pd.Categorical(["x", None, "y"], categories=["y", "x"], ordered=True),
            "s": pd.array(["u", None, "v"], dtype="string"),
        },
        index=pd.Index([3, 5, 9], name="epoch"),
    )
    frame = pd.concat([frame, frame[["f"]]], axis=1)  # a name that occurs twice
    back = decode(json.loads(json.dumps(encode(frame, "frame"))))
    pd.testing.assert_frame_equal(back, frame)


@pytest.mark.parametrize("value", [{1, 2}, object(), torch.zeros(2), 1j, np.array([1j]), {"a": [{3}]}])
def test_encoding_refuses_other_types(value):
    with pytest.raises(TypeError, match="thing.*cannot be saved"):
        encode(value, "thing")


def test_decoding_refuses_unknown_marks():
    for value in ({"__type__": "code", "value": 1}, {"__type__": "ndarray", "dtype": "V8", "shape": [0], "values": []}):
        with pytest.raises(ValueError, match="saved model"):
            decode(value)
