"""CA-13: metadata values, kinds, vocabularies and specifications."""

import json
from datetime import date

import numpy as np
import pandas as pd
import pytest

from hpvade.models.cycleae._contexts import (
    build_context_specs,
    encode,
    read_metadata,
    values_of,
    vocab_from_json,
    vocab_to_json,
)

FRAME = pd.DataFrame(
    {
        "tissue.name": [" lung ", "liver", "", None, "lung"],
        "treated": pd.array([True, False, None, True, True], dtype="boolean"),
        "age": [1.5, np.nan, 3.5, 2.5, 2.5],
        "score": [1, 2, 3, 4, 5],
        "tags": [["b", "a"], ("c",), None, [], ["b", "a"]],
        "day": pd.to_datetime(["2020-01-01", None, "2020-01-02", "2020-01-02", "2020-01-02"]),
        "nothing": [None] * 5,
        "mixed": pd.Categorical(["x", None, "x", "y", "x"]),
    }
)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "meta_1.pkl", tmp_path / "meta_2.pkl"]
    FRAME.to_pickle(paths[0])
    FRAME.drop(columns="mixed").to_pickle(paths[1])
    return paths


def test_ca_13_kinds_cardinality_fractions_and_use(files):
    vocab, specs = build_context_specs(files, ["tissue.name", "treated"], ignore=["score"], allow_pickle=True)
    assert {name: spec["kind"] for name, spec in specs.items()} == {
        "tissue.name": "categorical",
        "treated": "boolean",
        "age": "numeric",
        "tags": "categorical_multi",
        "day": "datetime",
        "nothing": "empty",
        "mixed": "categorical",
    }
    assert {name for name, spec in specs.items() if spec["using"]} == {"tissue.name", "treated"}
    assert vocab == {
        "tissue.name": {"liver": 0, "lung": 1},
        "treated": {False: 0, True: 1},
        "tags": {("b", "a"): 0, ("c",): 1},
        "mixed": {"x": 0, "y": 1},
    }
    assert specs["tissue.name"] | {"kind": 0} == {
        "kind": 0,
        "cardinality": 2,
        "using": True,
        "non_null_fraction": 0.6,
        "non_null_count": 6,
        "null_count": 4,
        "total_count": 10,
    }
    assert specs["mixed"]["non_null_fraction"] == 0.4, "absent in one file counts as missing"
    age = np.repeat([1.5, 3.5, 2.5, 2.5], 2)
    expected = {"min": 1.5, "max": 3.5, "mean": age.mean(), "std": age.std(), "p50": np.median(age)}
    assert specs["age"]["numeric_summary"] == pytest.approx(expected)
    assert not any(spec["using"] for spec in build_context_specs(files, allow_pickle=True)[1].values())
    json.dumps(specs, allow_nan=False)


def test_ca_13_vocabularies_round_trip_with_their_types():
    vocab = {
        "a.b": {False: 0, True: 1},
        "n": {1: 0, 2: 1},
        "f": {0.5: 0},
        "t": {("x", "y"): 0, ("z",): 1},
        "s": {"1": 0},
    }
    found = vocab_from_json(vocab_to_json(vocab))
    assert found == vocab
    for field in vocab:
        assert [type(v) for v in found[field]] == [type(v) for v in vocab[field]]
    with pytest.raises(ValueError, match="not a vocabulary file"):
        vocab_from_json('{"a": [1]}')


def test_fields_that_cannot_be_used_are_refused(files):
    with pytest.raises(KeyError, match="'sex', which is in no file; found tissue.name"):
        build_context_specs(files, ["sex"], allow_pickle=True)
    for field, kind in (("age", "numeric"), ("day", "datetime"), ("nothing", "empty")):
        with pytest.raises(ValueError, match=f"'{field}' is {kind} and gets no head"):
            build_context_specs(files, [field], allow_pickle=True)
    with pytest.raises(ValueError, match="no metadata files"):
        build_context_specs([])


def test_every_kind_of_file_reads_the_same(tmp_path):
    import anndata as ad

    frame = pd.DataFrame({"sex": ["f", "m"], "n": ["1", "2"]}, index=["a", "b"])
    frame.to_csv(tmp_path / "m.csv", index=False)
    frame.to_csv(tmp_path / "m.tsv", sep="\t", index=False)
    frame.to_pickle(tmp_path / "m.pkl")
    ad.AnnData(np.ones((2, 1)), obs=frame).write_h5ad(tmp_path / "m.h5ad")
    for suffix in ("csv", "tsv", "pkl", "h5ad"):
        assert values_of(read_metadata(tmp_path / f"m.{suffix}", allow_pickle=True)["sex"]) == ["f", "m"]
    with pytest.raises(ValueError, match="of an unknown kind; expected metadata in .csv, .tsv, .parquet, .pkl, .h5ad"):
        read_metadata(tmp_path / "m.txt")
    pd.to_pickle([1, 2], tmp_path / "list.pkl")
    with pytest.raises(ValueError, match="holds a list; expected a table"):
        read_metadata(tmp_path / "list.pkl", allow_pickle=True)


def test_dates_of_python_are_dates(tmp_path):
    pd.DataFrame({"d": [date(2020, 1, 1), None]}).to_pickle(tmp_path / "m.pkl")
    assert build_context_specs([tmp_path / "m.pkl"], allow_pickle=True)[1]["d"]["kind"] == "datetime"


def test_encode_names_what_is_unknown():
    vocab = {"a": 0, "b": 1}
    np.testing.assert_array_equal(encode(["b", None, "a"], vocab, "f", "here"), [1, -1, 0])
    with pytest.raises(
        ValueError, match="here: field 'f' holds 'c', which the model does not know; known values: 'a', 'b'"
    ):
        encode(["a", "c"], vocab, "f", "here")


def test_pickles_are_read_only_when_allowed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "touched").touch, ()

    pd.to_pickle(Evil(), tmp_path / "m.pkl")
    for read in (read_metadata, lambda path: build_context_specs([path])):
        with pytest.raises(ValueError, match=r"m\.pkl is a pickle.*allow_pickle=True; else.*\.parquet"):
            read(tmp_path / "m.pkl")
    assert not (tmp_path / "touched").exists()
