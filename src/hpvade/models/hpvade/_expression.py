"""Expression of every type in every sample: the reference's profile, moved by what the sample shows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ..._text import warn
from ...io._frames import as_bulk
from ...io._rows import is_dask, pick_matrix
from ...solvers import VariableFit
from ._dask import estimate_blocks, read_blocks
from ._estimate import Estimate, estimate
from ._expression_store import create_arrays, finish, new_store, open_arrays, refuse_existing
from ._profile_posterior import Cohort, posterior

_BLOCK_VALUES = 2**22  # samples x types x genes of a block: 16 MB, and about ten times as much while it is computed


class ExpressionMethods:
    """`HPVADE`'s expression by type; needs `module`, `cell_types` and `preset`."""

    @torch.no_grad()
    def get_cell_type_expression(
        self,
        bulk_adata: AnnData,
        *,
        genes: Sequence[str] | None = None,
        min_resolved: float = 0.5,
        layer: str | None = None,
        input_type: str = "auto",
        missing: str = "mean",
        gene_length_key: str | None = None,
        on_bad_sample: str = "raise",
        batch_size: int | None = None,
        store: str | Path | None = None,
        variable_types: Sequence[str] | None = None,
    ) -> AnnData:
        r"""Expression of every cell type in every bulk sample, with its variance.

        In sample n the profile of type k has a prior around the signature, :math:`A_{ngk} \sim N(s_{gk}, v_g
        s_{gk}^2)`, and the bulk is :math:`x_{ng} = \sum_k r_{nk} A_{ngk} + \epsilon_{ng}`, both divided by the cohort's
        gene factor. With :math:`D = \mathrm{diag}(v_g s_{gk}^2)` the posterior is

        .. math:: E[A] = s + D r (r^\top D r + \sigma_{ng}^2)^{-1} (x - r^\top s),\quad
                  \mathrm{Cov}[A] = D - D r r^\top D / (r^\top D r + \sigma_{ng}^2).

        The variance :math:`v_g` between samples comes from the cohort: what its residuals scatter beyond counting noise
        and beyond the scatter of its quietest genes. A type that hardly takes part in a gene, or a cohort in which the
        gene does not vary, keeps the reference's profile; `varm["resolved"]` says where.

        Parameters
        ----------
        bulk_adata
            Samples x genes, as for :meth:`deconvolve`, in a Dask array, too. Nothing is written to it.
        genes
            Genes to return; all that model and bulk share when None. The table holds three values for each sample,
            type and gene.
        min_resolved
            Share of the prior variance that the bulk must explain for a gene of a type to count as resolved.
        layer, input_type, missing, gene_length_key, batch_size
            As for :meth:`deconvolve`.
        on_bad_sample
            Samples that cannot be used: an error (``"raise"``), or left out of the table with a warning (``"skip"``).
        store
            New folder, such as ``"expression.zarr"``, that the table is written to block by block; it is there whole or
            not at all. Memory then holds one block of it, and the bulk unless that is in a Dask array, of which it
            holds a block for each thread. :func:`anndata.read_zarr` and :func:`anndata.experimental.read_lazy` read it.
            Needs zarr 3.
        variable_types
            Types whose profiles differ from sample to sample, as :meth:`deconvolve` knows them. Their prior variance is
            :math:`(v_g + e^{\tau_k^2} - 1) s_{gk}^2`, with the variation :math:`\tau` that is found in the cohort, and
            what it does to residuals is taken off before the others' :math:`v_g` is estimated, so that a residual goes
            to the type that varies. Where nothing varies the table is that without them.

        Returns
        -------
        One row per sample and type (``"sample|type"``), with

        - `X`: what the type contributes to the sample, in the bulk's units; the rows of one sample sum to its fitted
          bulk;
        - `layers["expression"]`: the type's own expression in the sample, counts per million of its RNA, in the
          reference's scale; `layers["variance"]` its posterior variance;
        - `obs`: ``sample``, ``cell_type``, ``proportion`` (of cells) and ``rna_proportion``;
        - `varm["resolved"]` (genes x types): share of the prior variance that the bulk explains, mean over samples;
          `varm["is_resolved"]`: where it is at least `min_resolved`.

        With `store` the matrices are zarr arrays, of which slices of the table read what they need.

        Raises
        ------
        RuntimeError
            The model is not trained.
        NotImplementedError
            With ``preset="spec"``, whose signature is in log scale.
        KeyError
            Some `genes` are not in both model and bulk.
        ValueError
            `min_resolved` is not a share, `genes` is empty, `variable_types` names all types or one that is not there,
            or the bulk cannot be read.
        FileExistsError
            `store` exists.
        ImportError
            `store` is asked for without zarr 3.

        Warns
        -----
        UserWarning
            One sample: nothing tells how genes vary between samples, so that every profile is the reference's.

        References
        ----------
        Wang, Roeder and Devlin, Genome Research 31 (2021), for the posterior under a normal prior.
        """
        self._require_trained("get_cell_type_expression")
        if self.preset == "spec":
            raise NotImplementedError("the literal signature is in log scale. Use preset='default'.")
        if not 0 <= min_resolved <= 1:
            raise ValueError(f"min_resolved={min_resolved!r}; expected a share between 0 and 1.")
        if store is not None:
            refuse_existing(store)
        reading = {"layer": layer, "input_type": input_type, "missing": missing, "gene_length_key": gene_length_key}
        reading["on_bad_sample"] = on_bad_sample
        found, shares = _estimate(
            self, bulk_adata, batch_size=batch_size or 256, variable_types=variable_types, **reading
        )
        names, present = np.asarray(self.get_var_names()), found.present.nonzero()[:, 0]
        index = torch.from_numpy(_choose(names, found.present.cpu().numpy(), genes)).to(present.device)
        varies = isinstance(found.fit, VariableFit) and bool(found.fit.variation.any())
        if len(found.rna) == 1:
            who = "every type but those of variable_types keeps" if varies else "every type keeps"
            warn(f"One sample: how genes vary between samples is unknown; {who} the reference's profile.")
        signature = self.module.signature()
        signature = (signature / signature.sum(dim=0))[present]

        def blocks(n_values: int) -> Iterator[tuple[slice, Tensor]]:
            size, begin = max(1, _BLOCK_VALUES // n_values), 0
            for part in shares():
                for rows in part.split(size):
                    yield slice(begin, begin + len(rows)), rows[:, present]
                    begin += len(rows)

        known = (found.fit.variation.to(signature), max(float(found.fit.residual.median()), 0.01)) if varies else ()
        cohort = Cohort.of(blocks(4 * len(present)), signature, found.rna, found.depth, *known)
        n_values = len(self.cell_types) * len(index)
        table = _describe(self.cell_types, found, names[index.cpu().numpy()].astype(str))
        with nullcontext() if store is None else new_store(store) as group:
            arrays = create_arrays(table.shape, group, max(1, _BLOCK_VALUES // n_values) * len(self.cell_types))
            resolved = _fill(arrays, blocks(n_values), signature, found, cohort, torch.searchsorted(present, index))
            resolved = pd.DataFrame(resolved, index=table.var_names, columns=self.cell_types)
            table.varm.update({"resolved": resolved, "is_resolved": resolved >= min_resolved})
            if group is not None:
                finish(group, table)
        arrays = arrays if store is None else open_arrays(store)
        return AnnData(arrays.pop("X"), layers=arrays, obs=table.obs, var=table.var, varm=dict(table.varm))


def _estimate(
    model, bulk: AnnData, *, layer: str | None, batch_size: int, variable_types: Sequence[str] | None, **reading
) -> tuple[Estimate, Callable[[], Iterable[Tensor]]]:
    """The composition of the cohort, and what gives the shares (samples x all genes), some samples after others."""
    bulk, options = as_bulk(bulk), {"batch_size": batch_size, "layer": layer, "variable_types": variable_types}
    if not bulk.obs_names.is_unique:
        twice = bulk.obs_names[bulk.obs_names.duplicated()][0]
        raise ValueError(
            f"bulk.obs_names has {twice!r} more than once, and rows of the table are named by the sample; expected "
            "each name once. Call `bulk.obs_names_make_unique()`."
        )
    if not is_dask(pick_matrix(bulk, layer, "bulk")[0]):
        found = estimate(model, bulk, **options, **reading)
        return found, lambda: [found.shares]
    (batch, found), *_ = estimate_blocks(model, bulk, baseline=False, **options, **reading)
    device, genes = found.present.device, np.asarray(model.get_var_names())
    found = replace(found, **{name: getattr(found, name).to(device) for name in ("total", "depth", "rna", "cells")})
    return found, lambda: (x.to(device) for x in read_blocks(bulk, genes, batch.present, layer=layer, **reading))


def _describe(types: list[str], found: Estimate, genes: np.ndarray) -> AnnData:
    """The table without its values: one row for every sample and type."""
    n, samples = len(found.rna), found.bulk.obs_names.astype(str)
    obs = pd.DataFrame(
        {
            "sample": pd.Categorical(np.repeat(samples, len(types)), categories=samples),
            "cell_type": pd.Categorical(np.tile(types, n), categories=types),
            "proportion": found.cells.double().cpu().numpy().ravel(),
            "rna_proportion": found.rna.double().cpu().numpy().ravel(),
        },
        index=[f"{sample}|{name}" for sample in samples for name in types],
    )
    return AnnData(obs=obs, var=pd.DataFrame(index=pd.Index(genes)))


def _choose(names: np.ndarray, present: np.ndarray, genes: Sequence[str] | None) -> np.ndarray:
    if genes is None:
        return np.flatnonzero(present)
    if isinstance(genes, str):
        raise TypeError(f"genes={genes!r} is a text; expected a list of genes, such as [{genes!r}].")
    index = pd.Index(names).get_indexer(list(genes))
    absent = [g for g, i in zip(genes, index, strict=True) if i < 0 or not present[i]]
    if absent:
        raise KeyError(
            f"{len(absent)} of {len(index)} genes are not in both model and bulk, such as {absent[:3]}. "
            "Choose from bulk.var_names and the genes of the model."
        )
    if not len(index):
        raise ValueError("genes is empty; expected names of genes, or None for all.")
    return index


def _fill(
    arrays: dict, blocks: Iterable[tuple[slice, Tensor]], signature: Tensor, found: Estimate, cohort: Cohort, genes
) -> np.ndarray:
    """Write the matrices, a block of samples at a time; return the share of variance explained (genes x types)."""
    n_types, explained = signature.shape[1], 0.0
    for rows, bulk in blocks:
        rna = found.rna[rows]
        profiles, variance, gain, factor = posterior(signature, bulk, rna, found.depth[rows], cohort, genes)
        contribution = rna[:, :, None] * profiles * factor * found.total[rows, None, None]
        lines = slice(rows.start * n_types, rows.stop * n_types)
        for name, x in (("X", contribution), ("expression", 1e6 * profiles), ("variance", 1e12 * variance)):
            arrays[name][lines] = x.reshape(-1, x.shape[-1]).float().cpu().numpy()
        explained = explained + gain.sum(dim=0).T.double()
    return (explained / len(found.rna)).cpu().numpy()
