"""Intervals around proportions: what the genes' disagreement and the cell sizes' uncertainty leave open."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ..._text import whole_number
from ...io._bulk import OnBadSample
from ...io._frames import as_bulk
from ...reference._folds import Fold
from ...reference._measured import placed
from ...solvers._influence import covariance_of_mean
from ._consensus import StudyFit
from ._estimate import PRIOR_WEIGHT, Estimate, estimates, to_shares, trust_in_published_sizes

# Scale of the standard deviations on another study or platform, where genes err together and about one in four is an
# independent draw, and standard deviation of log RNA content per cell between published tables. Both set once on
# development references; benchmarks/pseudobulk.py measures the coverage.
SCALE_OTHER, SIZE_SD_OTHER = 2.0, 0.25
_NORMAL_90, _MIN_SCALE = 1.645, 0.5  # a lucky draw makes no claim
_SIZE_SD = 0.1  # of log RNA content between donors, where there are none to compare


@torch.no_grad()
def reference_uncertainty(module, folds: Iterable[Fold], level: float = 0.9) -> tuple[Tensor, Tensor, Tensor]:
    """Scale of the standard deviations of every type's fraction of RNA, standard deviation of its log size, recovery.

    Every fold of the reference is deconvolved with the signature of the others, plus what training changed in the
    model's. The scale is the conformal quantile of errors over standard deviations: that with which `level` of the
    held-out fractions lie inside their intervals, over all types or over the type's own if that is larger, as it is for
    types with few cells. The log size is the counts per cell of a fold's type less those of the others, centred over
    the types, so that depth does not count. The recovery is the share of a type's RNA in the folds that is found as
    its own: noise in the profile of a type with few cells takes weight from it, as errors in a regressor do, and
    similar types that have more cells get it.
    """
    device = module.gene_index.device
    learned = module.learned()
    present = torch.ones(len(learned), dtype=torch.bool, device=device)
    ratios, sizes, rna = [], [], []
    for fold in folds:
        shares = fold.bulk.to(device)
        _, depth = to_shares(shares)
        equal = torch.ones((len(shares), module.n_types), device=device)
        anchor = module.cells_to_rna(equal, module.mean_counts.sum(dim=0))
        signature = learned * torch.from_numpy(fold.mean_counts).to(learned)
        _, fit = module.refine(
            shares, present, depth, anchor, anchor_weight=PRIOR_WEIGHT, covariance=True, signature=signature
        )
        estimated = fit.rna_proportions.double()
        centre = torch.eye(module.n_types, dtype=torch.float64, device=device) - estimated[:, :, None]
        variance = torch.diagonal(centre @ fit.covariance @ centre.transpose(1, 2), dim1=1, dim2=2)
        error = (estimated - fold.rna_proportions.to(device)).abs()
        ratio = error / (_NORMAL_90 * variance.clamp(min=0).sqrt()).clamp(min=1e-6)
        judged = torch.from_numpy(fold.judged).to(device)
        ratios.append(ratio.masked_fill(~judged, torch.nan))
        both = torch.stack([estimated, fold.rna_proportions.to(estimated)]).masked_fill(~judged, torch.nan)
        rna.append(both.sum(dim=1))
        log_size = torch.from_numpy(fold.log_size).to(device)
        sizes.append(log_size - log_size.nanmean())
    if not ratios or torch.cat(ratios).isnan().all():  # sums of few donors: nothing can be held out
        unknown = torch.ones(module.n_types, dtype=torch.float64, device=device)
        return _scale_other(module.n_studies) * unknown, _SIZE_SD * unknown, unknown
    ratio, size = torch.cat(ratios), torch.stack(sizes)
    pooled = torch.nanquantile(ratio, level)
    scale = torch.fmax(torch.nanquantile(ratio, level, dim=0), pooled)  # fmax: a type never judged takes the pooled one
    sd = size.square().nanmean(dim=0).sqrt()
    found, true = torch.stack(rna).nansum(dim=0)
    recovery = torch.where(true > 0, found / true, 1.0)
    return scale.clamp(min=_MIN_SCALE), torch.where(sd.isnan(), sd.nanmean(), sd), recovery


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
        batch_key: str | None = None,
        on_bad_sample: OnBadSample = "raise",
        gene_factor: Literal["cohort", "stored"] = "cohort",
        variable_types: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""Intervals around the proportions of every sample.

        Draws amounts of RNA around the estimate with the sandwich covariance of the regression, in which genes are the
        independent draws: another platform, whose factors are drawn anew for each gene, would have moved the estimate
        this far. Standard deviations are scaled, type by type, by what the reference shows at the end of training: its
        donors (its cells, with fewer than three donors) are mixed into bulk and deconvolved with the signature of the
        others, and the scale is that which makes the intervals right there (cross-conformal); at least two for bulk of
        another platform, where genes err together. Each draw divides by its own RNA content per cell, log-normal around
        the estimate's with the standard deviation between the reference's donors, at least 0.25 on another platform
        unless :meth:`calibrate` has measured the level there.
        With several studies the covariance is that of the mean of their answers, and each draw weighs them anew, so
        that their spread is inside; differences between donors are in that spread and not in the scale again. Amounts
        are not negative, so that draws of absent types push the others below their estimates: their median and upper
        bound are raised by the difference. Similar
        types, few reads and a distant platform make intervals wide. They do not cover what no gene shows: types missing
        from the reference, or a truth that counts other cells than the reference's labels do.

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
        layer, input_type, missing, gene_length_key, batch_key, on_bad_sample, gene_factor, variable_types, batch_size
            As for :meth:`deconvolve`.

        Returns
        -------
        Samples x (type or group, bound), with the bounds ``"lower"``, ``"median"`` and ``"upper"``, between 0 and 1;
        NaN for samples that were skipped.

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
        bulk_adata = as_bulk(bulk_adata)
        if self.preset == "spec":
            raise NotImplementedError(
                "the literal network gives no uncertainty. Use preset='default', or the spread of deconvolve over "
                "models trained with different seeds."
            )
        if not isinstance(level, Real) or not 0 < level < 1:
            raise ValueError(f"level={level!r}; expected a share between 0 and 1, such as 0.9.")
        whole_number("n_draws", n_draws, 20)
        if fractions not in ("cell", "rna"):
            raise ValueError(f"fractions={fractions!r} is unknown; expected 'cell' or 'rna'.")
        cohorts = estimates(
            self,
            bulk_adata,
            batch_size=batch_size or 256,
            layer=layer,
            input_type=input_type,
            missing=missing,
            gene_length_key=gene_length_key,
            covariance=True,
            batch_key=batch_key,
            on_bad_sample=on_bad_sample,
            gene_factor=gene_factor,
            variable_types=variable_types,
        )
        groups, member = _groups(self.cell_types, mapping)
        tail = (1 - level) / 2
        points = torch.tensor([tail, 0.5, 1 - tail], dtype=torch.float64, device=member.device)
        generator = torch.Generator().manual_seed(seed)
        columns = pd.MultiIndex.from_product([groups, ["lower", "median", "upper"]], names=["type", "bound"])
        parts = [
            (batch.samples, self._bounds(found, member, points, n_draws, fractions, generator))
            for batch, found in cohorts
        ]
        return placed(bulk_adata, columns, parts)

    def _bounds(self, found: Estimate, member: Tensor, points: Tensor, n_draws: int, fractions: str, generator):
        """Bounds of one cohort (samples x (groups and bounds))."""
        member, points = member.to(found.rna.device), points.to(found.rna.device)
        fits = found.studies or (found,)
        other = 0.0 if self.module.size_offset.any() else SIZE_SD_OTHER  # calibrated sizes are measured on the platform
        weights = _study_weights(len(fits), n_draws, generator).to(points)
        size_noise = torch.randn((n_draws, found.rna.shape[1]), generator=generator, dtype=torch.float64).to(points)
        bounds = []
        for block in torch.arange(len(found.rna)).split(256):
            shape = (n_draws, len(block), found.rna.shape[1])
            noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(points)
            covariance = found.fit.covariance[block]
            if found.studies:
                parts = [(study.fit.influence, study.genes) for study in found.studies]
                covariance = covariance_of_mean(parts, block)
            drawn = 0.0
            for weight, fit in zip(weights.T, fits, strict=True):  # the noise is that of their mean
                distance = trust_in_published_sizes(fit.platform_distance)
                sizes = fit.sizes.double() * torch.exp(_towards(self.module.size_sd, other, distance) * size_noise)
                scale = _scale(self.module.interval_scale, len(fits), distance)
                drawn = drawn + weight[:, None, None] * _draw(fit, block, covariance, sizes, fractions, scale, noise)
            estimate = (found.cells if fractions == "cell" else found.rna)[block].double()
            drawn, estimate = (
                x / x.sum(dim=-1, keepdim=True).clamp(min=1e-12) for x in (drawn @ member, estimate @ member)
            )
            bounds.append(_raised(torch.quantile(drawn, points, dim=0), estimate - drawn.mean(dim=0)))
        return torch.cat(bounds, dim=1).permute(1, 2, 0).reshape(len(found.rna), -1).cpu().numpy()


def _raised(bounds: Tensor, lack: Tensor) -> Tensor:
    """Lower, middle and upper bounds (3 x samples x groups) of draws whose mean is this far below the estimate.

    Amounts are not negative, so that draws around a type that is absent lie above nothing, and the more such types, the
    further they push the others down: without this, the interval of a type that makes up nearly all of a sample ends
    at its estimate. The lower bound stays, since the other types may indeed be there.
    """
    lower, *others = bounds
    return torch.stack([lower, *((bound + lack.clamp(min=0)).clamp(max=1) for bound in others)])


def _scale(same: Tensor, n_studies: int, distance: float) -> Tensor:
    """Scale (types,) of the standard deviations, from the reference's platform to another one.

    What folds found beyond one study's regression is how donors differ. With several studies their spread is drawn, and
    differences between their donors are in it: counted once, so that the folds' scale holds on their own platform only.
    """
    other = _scale_other(n_studies)
    return _towards(same, other, distance) if n_studies == 1 else same + (other - same) * distance


def _scale_other(n_studies: int) -> float:
    """Scale of the standard deviations on another platform; how genes err together, several studies show themselves."""
    return SCALE_OTHER if n_studies == 1 else 1.0


def _study_weights(n_studies: int, n_draws: int, generator: torch.Generator) -> Tensor:
    """Weights (draws x studies) under which the weighted mean varies as the mean of that many studies does.

    Dirichlet weights of concentration a have variance s^2 / (n a + 1) around the mean, s^2 the variance of the studies;
    the mean of n studies has s^2 / (n - 1), so a = (n - 2) / n. Two studies are drawn as one or the other.
    """
    if n_studies == 1:
        return torch.ones(n_draws, 1)
    concentration = max(n_studies - 2, 0.1) / n_studies
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return torch.from_numpy(rng.dirichlet(np.full(n_studies, concentration), n_draws))


def _groups(types: list[str], mapping: Mapping[str, str] | None) -> tuple[list[str], Tensor]:
    """Names of the groups, and which types belong to them (types x groups)."""
    mapping = dict(zip(types, types, strict=True)) if mapping is None else mapping
    mapping = mapping.to_dict() if isinstance(mapping, pd.Series) else mapping
    if not isinstance(mapping, Mapping) or not all(isinstance(group, str) for group in mapping.values()):
        raise TypeError(
            f"mapping={mapping!r}; expected the name of a group for each type, as {{{types[0]!r}: 'group'}}."
        )
    if unknown := [name for name in mapping if name not in types]:
        raise KeyError(f"mapping names {unknown[:3]}, which are no types of the model; expected some of {types}.")
    groups = list(dict.fromkeys(mapping[name] for name in types if name in mapping))
    member = [[float(mapping.get(name) == group) for group in groups] for name in types]
    return groups, torch.tensor(member, dtype=torch.float64)


def _towards(same: Tensor, other: float, distance: float) -> Tensor:
    """From the value (types,) on the reference's platform to that on another one, if that is larger."""
    return same + (other - same).clamp(min=0) * distance


def _draw(
    fit: Estimate | StudyFit,
    rows: Tensor,
    covariance: Tensor,
    sizes: Tensor,
    fractions: str,
    scale: Tensor,
    noise: Tensor,
) -> Tensor:
    """Fractions (draws x samples x types) of some samples, from standard normal `noise` of that shape."""
    rna = fit.fit.rna_proportions[rows].double()
    value, vector = torch.linalg.eigh(covariance)
    root = scale[:, None] * (vector * value.clamp(min=0).sqrt()[:, None, :]) @ vector.transpose(1, 2)
    moved = (root @ noise.permute(1, 2, 0)).permute(2, 0, 1)  # not root @ noise[..., None], which repeats the roots
    amounts = (rna + moved).clamp(min=0)
    amounts = torch.where(amounts.sum(dim=-1, keepdim=True) > 0, amounts, rna)
    if fractions == "cell":
        amounts = amounts / sizes[:, None, :]
    return amounts / amounts.sum(dim=-1, keepdim=True)
