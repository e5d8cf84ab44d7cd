"""AutoGeneS as in its published example: cells and bulk per 10,000, 4,000 variable genes, 400 selected, nu-SVR."""

import autogenes as ag
import numpy as np
import pandas as pd
import scanpy as sc
from _row import read, write

row = read()
shared = row.adata.var_names.intersection(row.bulk.columns)
cells = row.adata[:, shared].copy()
cells = cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()
sc.pp.normalize_total(cells, target_sum=1e4)
if cells.n_vars > 4000:
    logs = sc.pp.log1p(cells, copy=True)
    sc.pp.highly_variable_genes(logs, flavor="cell_ranger", n_top_genes=4000)
    cells = cells[:, logs.var["highly_variable"].to_numpy()].copy()
bulk = row.bulk[shared].div(row.bulk[shared].sum(axis=1), axis=0)[cells.var_names] * 1e4
centroids = ag.init(cells, celltype_key="cell_type")
ag.optimize(ngen=row.steps, nfeatures=min(400, cells.n_vars), seed=0, mode="fixed", offspring_size=100, verbose=False)
coefficients = np.clip(ag.deconvolve(bulk, model="nusvr"), 0, None)
proportions = pd.DataFrame(coefficients / coefficients.sum(axis=1, keepdims=True), columns=centroids.obs_names)
write(row, proportions)
