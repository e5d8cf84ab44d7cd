"""Files of any content: `hpvade.io` and the readers of `pp` read them right, or say which file and why not."""

import string

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_inputs import COUNTS, refuse

import hpvade as hp

CELLS = ["0", "1", "2.5", "1,5", "1e3", "", "NA", "nan", "-1", "inf", "x", '"', "1 000", "０", "#", "=1+1", "\x00"]
GENES = ["CD3E", "ACTB", "MS4A1", "ENSG00000000003.4", "1-Mar", "", " ", "β", "CD3E", "a/b"]


@st.composite
def texts(draw):
    """A table in text: names, numbers and what else stands in cells, in any dialect, sometimes ragged or cut."""
    n, k = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    between = draw(st.sampled_from([",", "\t", ";", " ", "|"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    cell = st.sampled_from(["0", "1", "7", "12"] if draw(st.booleans()) else CELLS)
    lines = [
        [
            *(["gene"] if draw(st.booleans()) else []),
            *draw(st.lists(st.sampled_from(["s1", "s2", "", "s1", "β"]), min_size=k, max_size=k)),
        ]
    ]
    for _ in range(n):
        width = k if draw(st.integers(0, 9)) else draw(st.integers(0, 6))
        lines.append([draw(st.sampled_from(GENES)), *draw(st.lists(cell, min_size=width, max_size=width))])
    text = end.join(between.join(line) for line in lines)
    return text[: draw(st.integers(0, len(text)))] if not draw(st.integers(0, 9)) else text


def tried(what, path, function):
    try:
        found = function()
    except Exception as error:  # noqa: BLE001
        COUNTS["refused"] += 1
        refuse(error, what)
        assert str(path) in str(error) or path.name in str(error), f"{what} does not name the file: {error}"
        return None
    COUNTS["answered"] += 1
    return found


ENDINGS = ["csv", "tsv", "txt", "csv.gz", "h5ad", "xlsx", "h5", "parquet"]


@given(texts(), st.sampled_from(ENDINGS), st.sampled_from(["auto", "rows", "columns"]))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_text_of_any_content(tmp_path_factory, text, ending, genes):
    path = tmp_path_factory.mktemp("text") / f"bulk.{ending}"
    path.write_text(text, encoding="utf-8", newline="")
    for read in (hp.io.read_bulk, hp.io.read_reference):
        found = tried(read.__name__, path, lambda read=read: read(path, genes=genes))
        if found is not None:
            assert found.n_obs and found.n_vars


@given(st.binary(max_size=300), st.sampled_from(ENDINGS))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bytes_of_any_content(tmp_path_factory, payload, ending):
    path = tmp_path_factory.mktemp("bytes") / f"bulk.{ending}"
    path.write_bytes(payload)
    for read in (hp.io.read_bulk, hp.io.read_reference):
        tried(read.__name__, path, lambda read=read: read(path))


@given(
    st.integers(1, 6),
    st.integers(2, 6),
    st.sampled_from([",", "\t", ";"]),
    st.sampled_from(["csv", "txt", "csv.gz"]),
    st.integers(0, 99),
)
def test_a_good_table_comes_back(tmp_path_factory, n, k, between, ending, seed):
    rng = np.random.default_rng(seed)
    genes = [f"GENE{letter}" for letter in string.ascii_uppercase[: 3 * n]]
    table = pd.DataFrame(rng.poisson(50, (3 * n, k)), index=genes, columns=[f"sample{i}" for i in range(k)])
    path = tmp_path_factory.mktemp("good") / f"bulk.{ending}"
    table.to_csv(path, sep=between)
    found = hp.io.read_bulk(path, genes="rows")
    COUNTS["answered"] += 1
    pd.testing.assert_frame_equal(found.to_df().T, table, check_dtype=False, check_names=False)


@given(texts(), st.sampled_from(["csv", "tsv", "parquet", "pkl", "json"]))
def test_metadata_of_any_content(tmp_path_factory, text, ending):
    path = tmp_path_factory.mktemp("meta") / f"meta.{ending}"
    path.write_text(text, encoding="utf-8", newline="")
    tried("build_context_specs", path, lambda: hp.pp.build_context_specs([path]))


@given(st.binary(max_size=200))
def test_batches_of_any_content(tmp_path_factory, payload):
    folder = tmp_path_factory.mktemp("batches")
    (folder / "batch_1.h5").write_bytes(payload)
    tried("read_h5_batches", folder / "batch_1.h5", lambda: hp.pp.read_h5_batches(folder))
