"""Where training starts: mean expression in the decoder's output, dispersions by moments."""

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from ...train._count_statistics import dispersion_start, mean_normalised, row_totals

_TINY = 1e-3  # counts of genes that no cell has


def start_from_counts(model, train: np.ndarray) -> None:
    """Set the output bias and the dispersions of the decoder of an `IVAE` from its cells `train` (indices).

    Neither would move far from a random start in a default run. Cells that are held out say nothing here.
    """
    X = model.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    totals, kept = row_totals(X), np.zeros(X.shape[0], dtype=bool)
    kept[train] = True
    totals[~kept] = 0
    mean = mean_normalised(X, totals, np.zeros(len(totals), dtype=int), 1)[:, 0]
    model.module.initialise(torch.as_tensor(mean + _TINY), torch.as_tensor(dispersion_start(X, totals)))
