"""Scaden by its four commands with their defaults: 1,000 mixtures of 100 normalised cells, three networks."""

from pathlib import Path

import numpy as np
import pandas as pd
from _row import read, write
from scaden.predict import prediction
from scaden.process import processing
from scaden.simulate import simulation
from scaden.train import training

row = read()
np.random.seed(0)  # noqa: NPY002  (the peer draws from the global generator)
Path("cells").mkdir(exist_ok=True)
cells = row.adata.copy()
total = np.asarray(cells.X.sum(axis=1)).ravel()
cells.X = cells.X.multiply(1e4 / total[:, None]).tocsr()
cells.obs = cells.obs.rename(columns={"cell_type": "Celltype"})
cells.write_h5ad("cells/row.h5ad")
row.bulk.T.to_csv("bulk.txt", sep="\t")
simulation(".", "cells", 100, 1000, "*.h5ad", ["unknown"], "data", "h5ad")
processing("bulk.txt", "data.h5ad", "processed.h5ad", 0.1)
training("processed.h5ad", "", "model", 128, 1e-4, row.steps, seed=0)
prediction("model", "bulk.txt", "predictions.txt", seed=0)
write(row, pd.read_table("predictions.txt", index_col=0).loc[row.bulk.index.astype(str)])
