import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from hpvade.pl import diagnostics


@pytest.fixture
def diagnosed():
    bulk = ad.AnnData(np.ones((3, 1)), obs=pd.DataFrame(index=["s1", "s2", "s3"]))
    bulk.obs["hpvade_qc_percentile"] = [10.0, 99.5, 60.0]
    bulk.obs["hpvade_qc_unexplained"] = [0.01, 0.3, 0.05]
    bulk.obs["hpvade_qc_flagged"] = [False, True, False]
    types = pd.DataFrame({"mean": [0.6, 0.4], "sd": [0.1, 0.2], "reference": [0.3, 0.7]}, index=["T", "B"])
    genes = pd.DataFrame(
        {"excess": [0.03, 0.02, 0.01], "informative": [False, True, True]}, index=["RPS27", "LYZ", "CD14"]
    )
    bulk.uns["hpvade_qc"] = {"types": types, "residual_genes": genes}
    return bulk


def test_panels_show_the_numbers(diagnosed):
    top, composition, bottom, genes = diagnostics(diagnosed).axes
    np.testing.assert_allclose(top.collections[0].get_offsets()[:, 1], [10, 99.5, 60])
    np.testing.assert_allclose(bottom.collections[0].get_offsets()[:, 1], [0.01, 0.3, 0.05])
    for ax, limit in ((top, 99), (bottom, 0.15)):
        assert [to_hex(c) for c in ax.collections[0].get_facecolors()] == ["#0072b2", "#d55e00", "#0072b2"]
        np.testing.assert_allclose(ax.lines[0].get_ydata(), limit)
        (said,) = ax.texts
        assert said.get_text() == {99: "limit: 99 %", 0.15: "limit: 0.15"}[limit] and said.xy[1] == limit
        assert [label.get_text() for label in ax.get_xticklabels()] == ["s1", "s2", "s3"]
    mean, reference = ([bar.get_width() for bar in bars] for bars in composition.containers if hasattr(bars, "patches"))
    np.testing.assert_allclose([mean, reference], [[0.6, 0.4], [0.3, 0.7]])
    assert [label.get_text() for label in composition.get_yticklabels()] == ["T", "B"]
    assert [label.get_text() for label in genes.get_yticklabels()] == ["LYZ", "CD14"]  # ribosomal genes say nothing
    np.testing.assert_allclose([bar.get_width() for bar in genes.patches], [2, 1])


def test_one_sample_has_no_spread(diagnosed):
    bulk = diagnosed[:1].copy()
    bulk.uns["hpvade_qc"]["types"]["sd"] = np.nan
    assert len(diagnostics(bulk, n_genes=1).axes[3].patches) == 1


def test_without_a_diagnosis_the_error_names_the_call(diagnosed):
    with pytest.raises(KeyError, match=r"no uns\['qc'\].*hpvade.tl.diagnose\(bulk, model, key_added='qc'\)"):
        diagnostics(diagnosed, "qc")
    del diagnosed.obs["hpvade_qc_flagged"]
    with pytest.raises(KeyError, match="no obs columns hpvade_qc_flagged"):
        diagnostics(diagnosed)


def test_number_of_genes(diagnosed):
    with pytest.raises(ValueError, match="n_genes=0"):
        diagnostics(diagnosed, n_genes=0)
