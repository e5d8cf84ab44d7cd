import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from hpvade.pl import label_check


@pytest.fixture
def checked():
    adata = ad.AnnData(np.ones((2, 1)))
    types = pd.DataFrame({"flagged": [0.2, 0.0], "doublets": [0.01, 0.03]}, index=["CD4 T", "CD8 T"])
    pairs = pd.DataFrame({"type": ["CD4 T"], "second": ["CD8 T"], "share": [0.27]})
    markers = pd.DataFrame(
        {
            "type": ["CD4 T", "CD8 T", "CD8 T"],
            "second": ["CD8 T", "B", "NK"],
            "genes": ["CD8A, CD8B", "MS4A1", "KLRF1"],
            "rate": [0.2, 0.1, 0.1],
            "full": [0.6, 0.9, np.nan],
            "background": [0.05, 0.08, 0.01],
            "excess": [0.27, 0.02, np.nan],
            "z": [9.0, 1.0, 2.0],
            "contradicts": [True, False, False],
        }
    )
    adata.uns["label_check"] = {"types": types, "pairs": pairs, "markers": markers}
    return adata


def test_panels_show_the_numbers(checked):
    matrix, shares, markers = label_check(checked).axes
    np.testing.assert_allclose(matrix.images[0].get_array(), [[0, 0.27], [0, 0]])
    assert [text.get_text() for text in matrix.texts] == ["27"]
    assert [[bar.get_width() for bar in bars] for bars in shares.containers] == [[20, 0], [1, 3]]
    assert [label.get_text() for label in markers.get_yticklabels()] == ["CD4 T: CD8A, CD8B", "CD8 T: MS4A1"]
    full, rate = markers.collections
    np.testing.assert_allclose(full.get_offsets()[:, 0], [60, 90])
    np.testing.assert_allclose(rate.get_offsets()[:, 0], [20, 10])
    assert [to_hex(colour) for colour in rate.get_facecolors()] == ["#d55e00", "#0072b2"]
    np.testing.assert_allclose([bar.get_width() for bar in markers.containers[0]], [5, 8])


def test_without_markers_or_pairs(checked):
    checked.uns["label_check"]["markers"] = checked.uns["label_check"]["markers"][:0]
    checked.uns["label_check"]["pairs"] = checked.uns["label_check"]["pairs"][:0]
    matrix, _ = label_check(checked).axes
    assert (matrix.images[0].get_array() == 0).all() and not matrix.texts


def test_errors_name_the_call(checked):
    with pytest.raises(KeyError, match=r"no uns\['qc'\].*check_labels\(adata, labels_key, key_added='qc'\)"):
        label_check(checked, "qc")
    with pytest.raises(ValueError, match="n_markers=0"):
        label_check(checked, n_markers=0)
