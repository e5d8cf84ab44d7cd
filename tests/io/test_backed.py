"""Cells written to an h5ad file a block at a time."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hpvade.io._backed import write_blocks


@pytest.fixture
def table():
    counts = np.random.default_rng(0).poisson(0.7, (7, 4)).astype(np.float32)
    obs = pd.DataFrame({"kind": pd.Categorical(list("abcabca"))}, index=[f"c{i}" for i in range(7)])
    return counts, obs, pd.DataFrame({"n": range(4)}, index=list("wxyz"))


def test_the_file_holds_what_one_block_would(table, tmp_path):
    counts, obs, var = table
    blocks = (sparse.csr_matrix(counts[i : i + 3]) for i in range(0, 7, 3))
    backed = write_blocks(tmp_path / "cells.h5ad", blocks, obs, var)
    assert backed.isbacked
    backed.file.close()
    found = ad.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), counts)
    assert found.X.format == "csr" and found.X.dtype == np.float32
    pd.testing.assert_frame_equal(found.obs, obs)
    pd.testing.assert_frame_equal(found.var, var)


def test_an_error_on_the_way_leaves_no_file(table, tmp_path):
    counts, obs, var = table

    def blocks():
        yield sparse.csr_matrix(counts[:3])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_blocks(tmp_path / "cells.h5ad", blocks(), obs, var)
    assert not list(tmp_path.iterdir())
