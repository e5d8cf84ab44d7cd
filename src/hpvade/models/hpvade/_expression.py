"""Expression of every type in every sample: the reference's profile, moved by what the sample shows."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ._deconvolve import Estimate, estimate

_FLOOR = 1e-6  # share of the total below which residuals are counting noise
_CLIP = 3.0  # largest log residual
_QUIET = 0.2  # quantile of the scatter over genes that counts as noise


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
        batch_size: int | None = None,
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
            Samples x genes, as for :meth:`deconvolve`. Nothing is written.
        genes
            Genes to return; all that model and bulk share when None. Memory is samples x types x genes.
        min_resolved
            Share of the prior variance that the bulk must explain for a gene of a type to count as resolved.
        layer, input_type, missing, gene_length_key, batch_size
            As for :meth:`deconvolve`.

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

        Raises
        ------
        RuntimeError
            The model is not trained.
        NotImplementedError
            With ``preset="spec"``, whose signature is in log scale.
        KeyError
            Some `genes` are not in both model and bulk.
        ValueError
            `min_resolved` is not a share, or the bulk cannot be read.

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
        found = estimate(
            self,
            bulk_adata,
            batch_size=batch_size or 256,
            layer=layer,
            input_type=input_type,
            missing=missing,
            gene_length_key=gene_length_key,
        )
        names = np.asarray(self.get_var_names())
        index = _choose(names, found.present.cpu().numpy(), genes)
        if len(found.rna) == 1:
            warnings.warn(
                "One sample: how genes vary between samples is unknown; every type keeps the reference's profile.",
                UserWarning,
                stacklevel=3,  # torch.no_grad stands between,
            )
        index = torch.from_numpy(index).to(found.rna.device)
        posterior = _posterior(self.module.signature(), found, index, found.present.nonzero()[:, 0])
        return self._table(posterior, found, found.bulk.obs_names, names[index.cpu().numpy()], min_resolved)

    def _table(self, posterior, found: Estimate, samples: pd.Index, genes: np.ndarray, min_resolved: float) -> AnnData:
        expression, variance, resolved, factor = posterior
        n, n_types = found.rna.shape
        share = found.rna[:, :, None] * expression * factor
        contribution = share * found.total[:, None, None]
        obs = pd.DataFrame(
            {
                "sample": pd.Categorical(np.repeat(samples.astype(str), n_types), categories=samples.astype(str)),
                "cell_type": pd.Categorical(np.tile(self.cell_types, n), categories=self.cell_types),
                "proportion": found.cells.double().cpu().numpy().ravel(),
                "rna_proportion": found.rna.double().cpu().numpy().ravel(),
            },
            index=[f"{sample}|{name}" for sample in samples for name in self.cell_types],
        )
        table = ad.AnnData(_flat(contribution), obs=obs, var=pd.DataFrame(index=pd.Index(genes.astype(str))))
        table.layers["expression"] = _flat(1e6 * expression)
        table.layers["variance"] = _flat(1e12 * variance)
        resolved = pd.DataFrame(resolved.double().cpu().numpy(), index=table.var_names, columns=self.cell_types)
        table.varm["resolved"] = resolved
        table.varm["is_resolved"] = resolved >= min_resolved
        return table


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


def _flat(x: Tensor) -> np.ndarray:
    return x.reshape(-1, x.shape[-1]).float().cpu().numpy()


@dataclass
class _Cohort:
    """How the cohort's genes depart from the fit; genes are the present ones.

    `scale` (samples,) between bulk and fit, `factor` (genes,) that the cohort shares, `between` (genes,) the relative
    variance between samples, `noise` (samples x genes) the relative variance that is not the types'.
    """

    scale: Tensor
    factor: Tensor
    between: Tensor
    noise: Tensor

    @classmethod
    def of(cls, bulk: Tensor, signature: Tensor, rna: Tensor, depth: Tensor) -> "_Cohort":
        """Moments of the log residuals of `bulk` (samples x genes)."""
        n = len(bulk)
        fitted = rna @ signature.T
        scale = bulk.sum(dim=1) / fitted.sum(dim=1).clamp(min=1e-30)
        residual = torch.log(bulk / scale[:, None] + _FLOOR) - torch.log(fitted + _FLOOR)
        residual = residual.clamp(-_CLIP, _CLIP)
        shift = residual.mean(dim=0) * n / (n + 1) if n > 1 else torch.zeros_like(residual[0])
        counting = 1 / (depth[:, None] * (fitted + _FLOOR))
        scatter = (residual - shift).square().sum(dim=0) / max(n - 1, 1) - counting.mean(dim=0)
        expressed = fitted.mean(dim=0) > _FLOOR
        quiet = torch.quantile(scatter[expressed] if expressed.any() else scatter, _QUIET).clamp(min=1e-4)
        # the bulk's scatter is that of its types, weighted by the squares of their parts
        concentration = torch.zeros_like(scatter)
        for part in rna.T[:, :, None] * signature.T[:, None, :]:  # one type at a time
            concentration += (part / fitted.clamp(min=1e-30)).square().mean(dim=0)
        between = ((scatter - quiet) / concentration.clamp(min=1e-6)).clamp(0, 1)
        return cls(scale, shift.exp(), between if n > 1 else torch.zeros_like(between), quiet + counting)


def _posterior(
    signature: Tensor, found: Estimate, index: Tensor, present: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Profiles and variances (samples x types x genes), share of variance explained (genes x types), bulk's factor.

    `index` are the genes wanted, `present` the ones that the cohort's moments are taken over.
    """
    signature = signature / signature.sum(dim=0)
    cohort = _Cohort.of(found.shares[:, present], signature[present], found.rna, found.depth)
    position = torch.searchsorted(present, index)
    between, noise, factor = cohort.between[position], cohort.noise[:, position], cohort.factor[position]
    s, rna = signature[index], found.rna
    fitted = rna @ s.T
    observed = found.shares[:, index] / cohort.scale[:, None] / factor
    prior = between * s.T.square()  # (types x genes)
    pull = rna[:, :, None] * prior
    total = (rna[:, :, None] * pull).sum(dim=1) + noise * (fitted + _FLOOR).square()
    gain = pull / total[:, None].clamp(min=1e-30)
    expression = (s.T + gain * (observed - fitted)[:, None]).clamp(min=0)
    variance = (prior - gain * pull).clamp(min=0)
    explained = (gain * rna[:, :, None]).mean(dim=0).T
    return expression, variance, explained, factor * cohort.scale[:, None, None]
