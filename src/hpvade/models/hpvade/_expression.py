"""Expression of every type in every sample: the reference's profile, moved by what the sample shows."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ...io._frames import as_bulk
from ...io._rows import is_dask, pick_matrix
from ._dask import estimate_blocks, read_blocks
from ._estimate import Estimate, estimate
from ._expression_store import create_arrays, finish, new_store, open_arrays, refuse_existing

_FLOOR = 1e-6  # share of the total below which residuals are counting noise
_CLIP = 3.0  # largest log residual
_QUIET = 0.2  # quantile of the scatter over genes that counts as noise
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
            `min_resolved` is not a share, `genes` is empty, or the bulk cannot be read.
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
        found, shares = _estimate(self, bulk_adata, batch_size=batch_size or 256, **reading)
        names, present = np.asarray(self.get_var_names()), found.present.nonzero()[:, 0]
        index = torch.from_numpy(_choose(names, found.present.cpu().numpy(), genes)).to(present.device)
        if len(found.rna) == 1:
            warnings.warn(
                "One sample: how genes vary between samples is unknown; every type keeps the reference's profile.",
                UserWarning,
                stacklevel=3,  # torch.no_grad stands between
            )
        signature = self.module.signature()
        signature = (signature / signature.sum(dim=0))[present]

        def blocks(n_values: int) -> Iterator[tuple[slice, Tensor]]:
            size, begin = max(1, _BLOCK_VALUES // n_values), 0
            for part in shares():
                for rows in part.split(size):
                    yield slice(begin, begin + len(rows)), rows[:, present]
                    begin += len(rows)

        cohort = _Cohort.of(blocks(4 * len(present)), signature, found.rna, found.depth)
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
    model, bulk: AnnData, *, layer: str | None, batch_size: int, **reading
) -> tuple[Estimate, Callable[[], Iterable[Tensor]]]:
    """The composition of the cohort, and what gives the shares (samples x all genes), some samples after others."""
    bulk = as_bulk(bulk)
    if not is_dask(pick_matrix(bulk, layer, "bulk")[0]):
        found = estimate(model, bulk, batch_size=batch_size, layer=layer, **reading)
        return found, lambda: [found.shares]
    (batch, found), *_ = estimate_blocks(model, bulk, batch_size=batch_size, layer=layer, **reading)
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
    arrays: dict, blocks: Iterable[tuple[slice, Tensor]], signature: Tensor, found: Estimate, cohort: "_Cohort", genes
) -> np.ndarray:
    """Write the matrices, a block of samples at a time; return the share of variance explained (genes x types)."""
    n_types, explained = signature.shape[1], 0.0
    for rows, bulk in blocks:
        rna = found.rna[rows]
        profiles, variance, gain, factor = _posterior(signature, bulk, rna, found.depth[rows], cohort, genes)
        contribution = rna[:, :, None] * profiles * factor * found.total[rows, None, None]
        lines = slice(rows.start * n_types, rows.stop * n_types)
        for name, x in (("X", contribution), ("expression", 1e6 * profiles), ("variance", 1e12 * variance)):
            arrays[name][lines] = x.reshape(-1, x.shape[-1]).float().cpu().numpy()
        explained = explained + gain.sum(dim=0).T.double()
    return (explained / len(found.rna)).cpu().numpy()


def _against_fit(bulk: Tensor, signature: Tensor, rna: Tensor) -> tuple[Tensor, Tensor]:
    """Fit (samples x genes), and the factor (samples x 1) between it and the bulk."""
    fitted = rna @ signature.T
    return fitted, bulk.sum(dim=1, keepdim=True) / fitted.sum(dim=1, keepdim=True).clamp(min=1e-30)


def _counting(fitted: Tensor, depth: Tensor) -> Tensor:
    """Relative variance of counts (samples x genes)."""
    return 1 / (depth[:, None] * (fitted + _FLOOR))


@dataclass
class _Cohort:
    """How the cohort's genes depart from the fit; genes are the present ones.

    `factor` (genes,) that the cohort shares, `between` (genes,) the relative variance between samples, `quiet` the
    relative variance that is neither the types' nor of counting.
    """

    factor: Tensor
    between: Tensor
    quiet: Tensor

    @classmethod
    def of(cls, blocks: Iterable[tuple[slice, Tensor]], signature: Tensor, rna: Tensor, depth: Tensor) -> "_Cohort":
        """Moments of the log residuals of the bulk (samples x genes), given block by block with its rows."""
        n, mean, squares = 0, 0.0, 0.0
        counting = expression = concentration = 0.0  # sums over samples
        for rows, bulk in blocks:
            fitted, scale = _against_fit(bulk, signature, rna[rows])
            residual = torch.log(bulk / scale + _FLOOR) - torch.log(fitted + _FLOOR)
            residual = residual.clamp(-_CLIP, _CLIP).double()
            own, size = residual.mean(dim=0), len(bulk)
            # sums of squares around the mean add up as in Chan, Golub and LeVeque (1983)
            squares = squares + (residual - own).square().sum(dim=0) + (own - mean).square() * n * size / (n + size)
            mean, n = mean + (own - mean) * size / (n + size), n + size
            counting = counting + _counting(fitted, depth[rows]).sum(dim=0).double()
            expression = expression + fitted.sum(dim=0).double()
            # the bulk's scatter is that of its types, weighted by the squares of their parts
            for part in rna[rows].T[:, :, None] * signature.T[:, None, :]:  # one type at a time
                concentration = concentration + (part / fitted.clamp(min=1e-30)).square().sum(dim=0).double()
        shift = mean * n / (n + 1) if n > 1 else torch.zeros_like(mean)
        scatter = (squares + n * (mean - shift).square()) / max(n - 1, 1) - counting / n
        expressed = expression / n > _FLOOR
        quiet = torch.quantile(scatter[expressed] if expressed.any() else scatter, _QUIET).clamp(min=1e-4)
        between = ((scatter - quiet) / (concentration / n).clamp(min=1e-6)).clamp(0, 1)
        between = between if n > 1 else torch.zeros_like(between)
        return cls(*(x.to(signature.dtype) for x in (shift.exp(), between, quiet)))


def _posterior(
    signature: Tensor, bulk: Tensor, rna: Tensor, depth: Tensor, cohort: _Cohort, genes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Profiles, variances and shares of variance explained (samples x types x genes), and the bulk's factor.

    `bulk` (samples x present genes), `signature` (present genes x types), columns sum to one over all genes; `genes`
    are the ones wanted, by their places among those present.
    """
    fitted, scale = _against_fit(bulk, signature, rna)
    fitted, s = fitted[:, genes], signature[genes]
    between, factor = cohort.between[genes], cohort.factor[genes]
    observed = bulk[:, genes] / scale / factor
    noise = cohort.quiet + _counting(fitted, depth)
    prior = between * s.T.square()  # (types x genes)
    pull = rna[:, :, None] * prior
    total = (rna[:, :, None] * pull).sum(dim=1) + noise * (fitted + _FLOOR).square()
    gain = pull / total[:, None].clamp(min=1e-30)
    expression = (s.T + gain * (observed - fitted)[:, None]).clamp(min=0)
    variance = (prior - gain * pull).clamp(min=0)
    return expression, variance, gain * rna[:, :, None], (factor * scale)[:, None]
