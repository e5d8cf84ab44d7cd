import numpy as np
import pytest

from hpvade.datasets import blood_anchor, pbmc_bulk, pbmc_reference

# Facts of the source files, written down from them before they were repacked.
LABELS = {"CD4 T": 1180, "Mono": 642, "B": 344, "CD8 T": 271, "NK": 155, "DC": 32, "Platelet": 14}
FINE = {"Naive CD4 T": 697, "Memory CD4 T": 483, "CD14+ Mono": 480, "B": 344, "CD8 T": 271, "FCGR3A+ Mono": 162}
FINE |= {"NK": 155, "DC": 32, "Platelet": 14}


def test_reference_equals_its_source():
    adata = pbmc_reference()
    assert adata.shape == (2638, 16579)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert adata.X.nnz == 2242529
    assert adata.X.sum(dtype=np.float64) == 6258871
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.X.min() == 0
    assert adata.X.max() == 419
    assert adata[:, "CD3D"].X.sum() == 3925
    assert adata[:, "LYZ"].X.sum() == 27457
    assert adata.var_names.is_unique
    assert adata.obs_names[0] == "AAACATACAACCAC-1"


def test_reference_labels():
    obs = pbmc_reference().obs
    assert obs["cell_type"].value_counts().to_dict() == LABELS
    assert obs["cell_type_fine"].value_counts().to_dict() == FINE
    assert obs["donor"].nunique() == 1


def test_monocytes_carry_lyz_and_t_cells_cd3d():
    """Labels belong to the rows they stand beside."""
    adata = pbmc_reference()
    mean = {gene: adata.obs.assign(x=adata[:, gene].X.toarray()[:, 0]) for gene in ("LYZ", "CD3D", "MS4A1", "GNLY")}
    top = {gene: table.groupby("cell_type", observed=True)["x"].mean().idxmax() for gene, table in mean.items()}
    assert top["LYZ"] in ("Mono", "DC")
    assert top["CD3D"] in ("CD4 T", "CD8 T")
    assert (top["MS4A1"], top["GNLY"]) == ("B", "NK")


def test_bulk_equals_its_source():
    bulk = pbmc_bulk()
    assert bulk.shape == (8, 19373)
    assert bulk.X.dtype == np.float32
    np.testing.assert_allclose(bulk.X.sum(1, dtype=np.float64), 1e6, atol=0.01)
    assert bulk.X.max() == pytest.approx(15757.417)
    assert bulk.obs["donor"].value_counts().to_dict() == {"HD30": 4, "HD31": 4}
    assert bulk.obs["day"].tolist() == [0, 1, 3, 7] * 2
    assert bulk.obs["sample"].tolist() == bulk.obs_names.tolist()


def test_truth_as_published():
    truth = pbmc_bulk().obsm["proportions"]
    assert truth.columns.tolist() == ["T", "Mono", "B", "DC", "NK"]
    assert truth.loc["HD30_PBMC_0"].tolist() == [0.514, 0.155, 0.043, 0.0264, 0.178]
    np.testing.assert_allclose(truth.sum(), [4.632, 1.327, 0.541, 0.148, 0.790], atol=1e-9)
    assert truth.sum(axis=1).between(0.91, 0.953).all()


def test_mapping_joins_the_two():
    bulk = pbmc_bulk()
    mapping = bulk.uns["proportions_mapping"]
    assert set(mapping) == set(LABELS) - {"Platelet"}
    assert set(mapping.values()) == set(bulk.obsm["proportions"].columns)
    assert len(bulk.var_names.intersection(pbmc_reference().var_names)) == 12872


def test_anchor_equals_its_source():
    adata = blood_anchor()
    assert adata.shape == (1336, 6289)
    assert adata.X.dtype == np.float32
    assert (adata.X.data == np.round(adata.X.data)).all()
    assert adata.X.sum(dtype=np.float64) == 3531929
    assert adata.X.max() == 11441
    sizes = {"CD4 T": 300, "DC": 237, "B": 186, "CD8 T": 150, "Mono": 150, "NK": 150, "Platelet": 150, "ILC": 13}
    assert adata.obs["cell_type"].value_counts().to_dict() == sizes
    assert adata.obs["cell_type_fine"].nunique() == 11
    assert adata.obs["donor"].value_counts()["unknown"] == 1068
    positive = (
        adata.obs.assign(cd8a=adata[:, "CD8A"].X.toarray()[:, 0] > 0).groupby("cell_type", observed=True)["cd8a"].mean()
    )
    assert positive.idxmax() == "CD8 T"
    assert positive["CD4 T"] < 0.1 * positive["CD8 T"]


@pytest.mark.parametrize("read", [pbmc_reference, pbmc_bulk, blood_anchor])
def test_provenance_and_fresh_objects(read):
    first, second = read(), read()
    assert {"accession", "licence", "provenance", "units"} <= first.uns.keys()
    first.X *= 0
    first.obs.iloc[:, 0] = None
    assert second.X[0].sum() > 0
    assert second.obs.iloc[:, 0].notna().all()
