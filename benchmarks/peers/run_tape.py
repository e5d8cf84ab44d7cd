"""TAPE with its defaults on counts: 5,000 mixtures of 500 cells, one autoencoder, adapted to the bulk."""

import numpy as np
import pandas as pd
from _row import read, write
from TAPE import Deconvolution

row = read()
np.random.seed(0)  # noqa: NPY002  (the peer draws from the global generator)
counts = row.adata.X.toarray()
if row.truth_in_rna:  # mixtures then have fractions of RNA, not of cells
    counts *= np.median(counts.sum(axis=1)) / counts.sum(axis=1, keepdims=True)
cells = pd.DataFrame(counts, index=row.adata.obs["cell_type"].astype(str), columns=row.adata.var_names)
_, proportions = Deconvolution(cells, row.bulk, datatype="counts", mode="overall", epochs=row.steps, seed=0)
write(row, proportions.loc[row.bulk.index])
