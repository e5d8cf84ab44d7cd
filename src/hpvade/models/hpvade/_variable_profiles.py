"""The profile of a type that differs from sample to sample, in every sample."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ...solvers import variable_profiles
from ._estimate import estimate


class VariableMethods:
    """`HPVADE`'s answers about types that vary; needs `module`, `cell_types` and `_require_trained`."""

    @torch.no_grad()
    def get_variable_profiles(self, bulk_adata: AnnData, variable_types: Sequence[str], **reading) -> AnnData:
        """Profiles of types that differ from sample to sample, as :meth:`deconvolve` with `variable_types` sees them.

        The posterior of :func:`hpvade.solvers.variable_profiles`: a gene of which the type makes little in a sample
        keeps the reference's value. With several studies, the profiles are against all of them together.

        Parameters
        ----------
        bulk_adata
            Samples x genes, as for :meth:`deconvolve`, of one cohort. Nothing is written.
        variable_types
            Types of the reference, not all.
        **reading
            `layer`, `input_type`, `missing`, `gene_length_key`, `prior` and `gene_factor` of :meth:`deconvolve`.

        Returns
        -------
        One row per sample and type (``"sample|type"``) and the genes that model and bulk share, with

        - `X`: expression, counts per million of the type's RNA, in the reference's scale;
        - `layers["log_ratio"]`: natural log of expression over the reference's, posterior mean;
        - `layers["resolved"]`: share of the variance between samples that the sample's bulk explains, 0 to 1;
        - `obs`: ``sample``, ``cell_type``, ``proportion`` (of cells), ``rna_proportion`` and ``log_sd``, how much the
          type varies in the cohort.

        Raises
        ------
        RuntimeError
            The model is not trained.
        TypeError, ValueError
            `variable_types` is a text, empty, names all types or one that is not there; the bulk cannot be read; the
            model has ``preset="spec"``.

        Examples
        --------
        >>> import hpvade as hp
        >>> adata, bulk = hp.datasets.planted_cohort(n_types=4, seed=0)
        >>> hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor")
        >>> model = hp.HPVADE(adata)
        >>> model.train(max_epochs=0, accelerator="cpu")
        >>> profiles = model.get_variable_profiles(bulk, [model.cell_types[0]])
        >>> profiles.n_obs == bulk.n_obs
        True
        """
        self._require_trained("get_variable_profiles")
        if not isinstance(variable_types, str) and len(variable_types) == 0:
            raise ValueError(f"variable_types is empty; expected some of {self.cell_types}.")
        found = estimate(self, bulk_adata, variable_types=variable_types, **reading)
        fit, present = found.fit, found.present
        signature = self.module.signature()
        share = (signature / signature.sum(dim=0))[present]
        own, layers, obs = [], {"log_ratio": [], "resolved": []}, []
        for k in fit.variable:
            profiles = variable_profiles(found.shares[:, present], share, fit, k, depth=found.depth)
            expression = profiles.ratio * share[:, k]
            own.append(1e6 * expression * share[:, k].sum() / expression.sum(dim=1, keepdim=True))
            layers["log_ratio"].append(profiles.log_ratio)
            layers["resolved"].append(profiles.resolved)
            table = {"sample": found.bulk.obs_names.astype(str), "cell_type": self.cell_types[k]}
            table |= {"proportion": _array(found.cells[:, k]), "rna_proportion": _array(found.rna[:, k])}
            obs.append(pd.DataFrame(table | {"log_sd": float(fit.variation[k])}))
        obs = pd.concat(obs)
        obs.index = obs["sample"] + "|" + obs["cell_type"]
        genes = pd.DataFrame(index=pd.Index(np.asarray(self.get_var_names()).astype(str)[present.cpu().numpy()]))
        table = AnnData(_array(torch.cat(own)), obs=obs, var=genes)
        for name, parts in layers.items():
            table.layers[name] = _array(torch.cat(parts))
        return table


def _array(x: torch.Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
