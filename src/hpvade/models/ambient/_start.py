"""Starting values of a regularised model from its cells."""

import numpy as np
import torch

from ..._text import warn
from ...train._count_statistics import (
    dispersion_start,
    library_statistics,
    mean_normalised,
    row_totals,
    top_normalised,
)
from ._shared_module import AMBIENT, LIBRARY, SIZE_FACTOR


def start_from_data(model, given: dict) -> None:
    """Give the module starting values from the registered cells; `given` are the options that the user chose."""
    if model.module.options["dispersion_init"] == "data" and "dispersion_hyper_prior_mean" in given:
        warn(
            f"dispersion_hyper_prior_mean={given['dispersion_hyper_prior_mean']} is not used: with "
            "dispersion_init='data' the data decide it."
        )
    options, module = model.module.options, model.module
    ambient, library = model._codes(AMBIENT), model._codes(LIBRARY).ravel()
    for name in module.modality_names:
        X = model._matrix(name)
        totals = row_totals(X)
        means, variances = library_statistics(totals, library, module.n_library_cats)
        start = {
            "library_log_means": means,
            "library_log_vars": variances,
            "median_total": np.median(totals[totals > 0]),
        }
        if SIZE_FACTOR in model.registry["field_registries"]:
            factors = np.log(model.adata_manager.get_from_registry(SIZE_FACTOR).ravel().astype(float))
            start["library_log_means"] = np.full_like(means, factors.mean())
        if options["init_decoder_bias"] == "mean":
            everywhere = np.zeros(len(totals), dtype=np.int64)
            start["decoder_mean"] = mean_normalised(X, totals, everywhere, 1)[:, 0]
        elif options["init_decoder_bias"] == "topN":
            start["decoder_mean"] = top_normalised(X, totals)
        from_data = options["bg_init_gene_fraction"] is not None and options["additive_bg_init_mean"] is None
        if from_data and module.has_background(name):
            columns = zip(ambient.T, module.n_cats_per_ambient_cov, strict=True)
            start["background"] = np.concatenate([mean_normalised(X, totals, c, n) for c, n in columns], axis=1)
        if options["dispersion_init"] == "data":
            start["theta"] = dispersion_start(
                X,
                totals,
                bio_frac=options["dispersion_init_bio_frac"],
                theta_min=options["dispersion_init_theta_min"],
                theta_max=options["dispersion_init_theta_max"],
            )
        module.initialise(name, {key: torch.as_tensor(v, dtype=torch.float32) for key, v in start.items()})
