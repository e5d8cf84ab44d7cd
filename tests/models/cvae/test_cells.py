import dask.array as da
import numpy as np
import pytest
import torch

from hpvade.models.cvae._cells import read_cells
from hpvade.models.cvae._vocabulary import Vocabulary

VOCABULARIES = {
    "labels": Vocabulary("cell_type", ("B", "Mono", "T")),
    "perturbation": Vocabulary("perturbation", ("control", "drug_a", "drug_b")),
    "batch": Vocabulary("experiment", ("exp_0", "exp_1")),
}


def read(adata, indices=None, **changes):
    options = {"layer": None, "size_factor_key": None, "used": ("labels", "perturbation", "batch"), "unseen": "error"}
    return read_cells(adata, indices, VOCABULARIES, adata.var_names, check=True, **options | changes)


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "dask"])
def test_batches_hold_the_chosen_cells_in_any_kind_of_matrix(cells, kind):
    adata = cells(60)
    dense = adata.X.toarray()
    adata.X = {"csr": adata.X, "csc": adata.X.tocsc(), "dense": dense, "dask": da.from_array(dense, chunks=(17, 100))}[
        kind
    ]
    chosen = [50, 3, 3, 20, 41]
    found = np.zeros((5, 100))
    ids = np.zeros((5, 3), int)
    read_part = read(adata, chosen)
    for batch in read_part.batches(torch.device("cpu"), 2):
        found[batch.rows] = batch.x.numpy()
        ids[batch.rows] = torch.stack([batch.cell_types, batch.perturbations, batch.experiments], dim=1).numpy()
        np.testing.assert_array_equal(batch.library[:, 0], batch.x.sum(dim=1))
    np.testing.assert_array_equal(found, dense[chosen])
    for column, (key, vocabulary) in enumerate(VOCABULARIES.items()):
        names = np.asarray(vocabulary.names)[ids[:, column]]
        np.testing.assert_array_equal(names, adata.obs[vocabulary.column].iloc[chosen].astype(str), err_msg=key)


def test_absent_labels_are_unknown_and_absent_others_an_error(cells):
    adata = cells(12)
    del adata.obs["cell_type"]
    assert (read(adata).of("labels") == 3).all()
    del adata.obs["perturbation"]
    assert (read(adata, used=("batch",)).of("perturbation") == 3).all()
    with pytest.raises(KeyError, match="'perturbation' is not a column"):
        read(adata)


def test_bad_counts_are_found(cells, unchanged):
    adata = cells(12)
    adata.X[4] = 0
    adata.X.eliminate_zeros()
    with unchanged(adata), pytest.raises(ValueError, match="'cell_4'"):
        read(adata)
