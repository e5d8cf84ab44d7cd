"""A platform's gene factor, learned from one cohort and kept with the model."""

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ...solvers import MIN_SAMPLES, platform_factor
from ._estimate import estimate


class PlatformMethods:
    """`HPVADE`'s stored gene factor; needs ``module`` and ``_require_trained``."""

    @torch.no_grad()
    def fit_platform(self, bulk_adata: AnnData, **reading) -> pd.DataFrame:
        """Learn from a cohort how its platform sees genes, and keep that with the model.

        One sample, or a few, cannot tell a platform's gene factor from composition;
        ``deconvolve(bulk, gene_factor="stored")`` solves them with the factor of a cohort that was measured alike (the
        same protocol, best the same laboratory). :meth:`save` keeps it; a second call replaces it.

        Parameters
        ----------
        bulk_adata
            Cohort of six samples or more, samples x genes, as for :meth:`deconvolve`. Nothing is written.
        **reading
            `layer`, `input_type`, `missing`, `gene_length_key` and `on_bad_sample` of :meth:`deconvolve`.

        Returns
        -------
        Genes of the model x ``"gene_factor"`` (log, natural) and ``"gene_weight"`` (1 for the median gene); NaN for
        genes about which the cohort says nothing.

        Raises
        ------
        RuntimeError
            The model is not trained.
        NotImplementedError
            With ``preset="spec"``, which has no regression.
        ValueError
            Fewer than six samples, or the bulk cannot be read.

        References
        ----------
        See :func:`hpvade.solvers.platform_factor`.
        """
        self._require_trained("fit_platform")
        if self.preset == "spec":
            raise NotImplementedError("the literal network has no gene factor. Use preset='default'.")
        found, module = estimate(self, bulk_adata, **reading), self.module
        if len(found.rna) < MIN_SAMPLES:
            raise ValueError(
                f"a platform's gene factor is what a cohort's samples share; found {len(found.rna)} samples, expected "
                f"{MIN_SAMPLES} or more."
            )
        fits = [(found, module.signature(), found.present)]
        for s, study in enumerate(found.studies):
            fits.append((study, module.study_signature(s), found.present & module.study_measured[s]))
        stored = torch.zeros_like(module.stored_platform)
        for i, (fit, signature, present) in enumerate(fits):
            genes = (present & (module.gene_score > 0)).nonzero()[:, 0]
            share = (signature / signature.sum(dim=0))[genes]
            one = platform_factor(found.shares[:, genes], share, fit.fit.rna_proportions, depth=found.depth)
            stored[i, 0, genes], stored[i, 1, genes] = one.gene_factor.nan_to_num(), one.gene_weight.nan_to_num()
        module.stored_platform.copy_(stored)
        table = torch.where(stored[0, 1] > 0, stored[0], torch.nan).T.double().cpu().numpy()
        return pd.DataFrame(table, index=np.asarray(self.get_var_names()), columns=["gene_factor", "gene_weight"])
