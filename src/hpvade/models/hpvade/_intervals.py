"""Intervals around proportions: what the genes' disagreement and the cell sizes' uncertainty leave open."""

from collections.abc import Mapping
from typing import Literal

import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ._deconvolve import Estimate, estimate, estimate_shares, trust_in_published_sizes

# Standard deviations are scaled by what held-out cells of training show times what new donors add, up to a bound. The
# last is the scale of another study or platform, where genes err together and about one in four is an independent
# draw. Set once on development references; benchmarks/pseudobulk.py measures the coverage.
DONORS, SCALE_SAME, SCALE_OTHER = 1.4, 1.6, 2.0
# Standard deviation of log RNA content per cell: within a platform (times the scale), and between published tables.
SIZE_SD_SAME, SIZE_SD_OTHER = 0.05, 0.25
_NORMAL_90 = 1.645


@torch.no_grad()
def interval_scale(model, bulk: Tensor, rna: Tensor, level: float = 0.9) -> float:
    """Scale of the standard deviations with which `level` of the held-out fractions `rna` lie inside their intervals.

    The conformal quantile of errors over standard deviations, for mixtures `bulk` (samples x all genes) of cells that
    training has not seen, times `DONORS`, because these cells are of the same batches or of one more donor; at least a
    half, so that a lucky draw makes no claim, and at most `SCALE_SAME`: beyond it the errors are those of few cells.
    """
    device = model.module.gene_index.device
    present = torch.ones(bulk.shape[1], dtype=torch.bool, device=device)
    found = estimate_shares(model, None, bulk.to(device), present)
    estimated = found.rna.double()
    centre = torch.eye(estimated.shape[1], dtype=torch.float64, device=device) - estimated[:, :, None]
    sd = torch.diagonal(centre @ found.fit.covariance @ centre.transpose(1, 2), dim1=1, dim2=2).clamp(min=0).sqrt()
    error = (estimated - rna.to(device)).abs()
    ratio = (error / (_NORMAL_90 * sd).clamp(min=1e-6)).flatten()
    rank = min(level * (len(ratio) + 1) / len(ratio), 1.0)
    return min(max(DONORS * float(torch.quantile(ratio, rank)), 0.5), SCALE_SAME)


class IntervalMethods:
    """`HPVADE`'s statements of uncertainty; needs `module`, `cell_types` and `preset`."""

    @torch.no_grad()
    def get_proportion_intervals(
        self,
        bulk_adata: AnnData,
        *,
        level: float = 0.9,
        n_draws: int = 200,
        seed: int = 0,
        fractions: Literal["cell", "rna"] = "cell",
        mapping: Mapping[str, str] | None = None,
        layer: str | None = None,
        input_type: str = "auto",
        missing: str = "mean",
        gene_length_key: str | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Intervals around the proportions of every sample.

        Draws amounts of RNA around the estimate with the sandwich covariance of the regression, in which genes are the
        independent draws: another platform, whose factors are drawn anew for each gene, would have moved the estimate
        this far. Standard deviations are scaled by what mixtures of held-out cells show at the end of training (a
        conformal factor) and what new donors add to it, up to a factor of two for bulk of another platform, where genes
        err together. Each draw divides by its own RNA content per cell, log-normal around the estimate's
        with standard deviation 0.05 times the same scale (0.25 on another platform). Similar types, few reads and a
        distant platform make intervals wide. They do not cover what no gene shows: types missing from the reference, or
        a truth that counts other cells than the reference's labels do.

        Parameters
        ----------
        bulk_adata
            Samples x genes, as for :meth:`deconvolve`. Nothing is written.
        level
            Share of the draws inside the interval.
        n_draws
            Draws per sample.
        seed
            Of the draws; the same seed gives the same intervals.
        fractions
            ``"cell"`` or ``"rna"``.
        mapping
            Intervals of sums of types, ``{type: group}``, as in :func:`hpvade.tl.evaluate`: types not named are
            left out and the groups close to one. All types by themselves when None.
        layer, input_type, missing, gene_length_key, batch_size
            As for :meth:`deconvolve`.

        Returns
        -------
        Samples x (type or group, bound), with the bounds ``"lower"``, ``"median"`` and ``"upper"``, between 0 and 1.

        Raises
        ------
        RuntimeError
            The model is not trained.
        NotImplementedError
            With ``preset="spec"``, whose network has no uncertainty.
        KeyError
            `mapping` names types that the model does not have.
        ValueError
            `level` is not between 0 and 1, `n_draws` is below 20, or the bulk cannot be read.

        References
        ----------
        White, Econometrica 48 (1980), for the covariance; Erdmann-Pham et al., Genome Research 31 (2021), on why the
        reference and not the reads limits deconvolution.
        """
        self._require_trained("get_proportion_intervals")
        if self.preset == "spec":
            raise NotImplementedError(
                "the literal network gives no uncertainty. Use preset='default', or the spread of deconvolve over "
                "models trained with different seeds."
            )
        if not 0 < level < 1:
            raise ValueError(f"level={level!r}; expected a share between 0 and 1, such as 0.9.")
        if n_draws < 20:
            raise ValueError(f"n_draws={n_draws!r}; expected at least 20, or the bounds are single draws.")
        if fractions not in ("cell", "rna"):
            raise ValueError(f"fractions={fractions!r} is unknown; expected 'cell' or 'rna'.")
        found = estimate(
            self,
            bulk_adata,
            batch_size=batch_size or 256,
            layer=layer,
            input_type=input_type,
            missing=missing,
            gene_length_key=gene_length_key,
        )
        groups, member = _groups(self.cell_types, mapping)
        member = member.to(found.rna.device)
        tail = (1 - level) / 2
        points = torch.tensor([tail, 0.5, 1 - tail], dtype=torch.float64, device=found.rna.device)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.arange(len(found.rna)).split(256)
        same = float(self.module.interval_scale)
        sizes = _draw_sizes(found, n_draws, same, generator)
        scale = same + (SCALE_OTHER - same) * _distance(found)
        bounds = []
        for block in rows:
            drawn = _draw(found, block, sizes, fractions, scale, generator) @ member
            drawn = drawn / drawn.sum(dim=-1, keepdim=True).clamp(min=1e-12)
            bounds.append(torch.quantile(drawn, points, dim=0))
        bounds = torch.cat(bounds, dim=1)
        columns = pd.MultiIndex.from_product([groups, ["lower", "median", "upper"]], names=["type", "bound"])
        values = bounds.permute(1, 2, 0).reshape(len(found.rna), -1).cpu().numpy()
        return pd.DataFrame(values, index=bulk_adata.obs_names.copy(), columns=columns)


def _groups(types: list[str], mapping: Mapping[str, str] | None) -> tuple[list[str], Tensor]:
    """Names of the groups, and which types belong to them (types x groups)."""
    mapping = dict(zip(types, types, strict=True)) if mapping is None else mapping
    if unknown := [name for name in mapping if name not in types]:
        raise KeyError(f"mapping names {unknown[:3]}, which are no types of the model; expected some of {types}.")
    groups = list(dict.fromkeys(mapping[name] for name in types if name in mapping))
    member = [[float(mapping.get(name) == group) for group in groups] for name in types]
    return groups, torch.tensor(member, dtype=torch.float64)


def _distance(found: Estimate) -> float:
    """How far the bulk's platform is from the reference's, 0 to 1."""
    return trust_in_published_sizes(found.platform_distance)


def _draw_sizes(found: Estimate, n_draws: int, scale: float, generator: torch.Generator) -> Tensor:
    """RNA content per cell (draws x types), shared by the cohort."""
    noise = torch.randn((n_draws, len(found.sizes)), generator=generator, dtype=torch.float64).to(found.sizes.device)
    sd = SIZE_SD_SAME * scale
    sd += (SIZE_SD_OTHER - sd) * _distance(found)
    return found.sizes.double() * torch.exp(sd * noise)


def _draw(
    found: Estimate, rows: Tensor, sizes: Tensor, fractions: str, scale: float, generator: torch.Generator
) -> Tensor:
    """Fractions (draws x samples x types) of some samples."""
    rna, covariance = found.rna[rows].double(), found.fit.covariance[rows]
    value, vector = torch.linalg.eigh(covariance)
    root = vector * value.clamp(min=0).sqrt()[:, None, :] * scale
    noise = torch.randn((len(sizes), *rna.shape, 1), generator=generator, dtype=torch.float64).to(rna.device)
    amounts = (rna + (root @ noise)[..., 0]).clamp(min=0)
    amounts = torch.where(amounts.sum(dim=-1, keepdim=True) > 0, amounts, rna)
    if fractions == "cell":
        amounts = amounts / sizes[:, None, :]
    return amounts / amounts.sum(dim=-1, keepdim=True)
