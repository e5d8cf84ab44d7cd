"""Do fractions differ between groups of samples?"""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys, check_key
from .._text import listed, warn
from ..evaluation._align import predicted, table
from ._group_design import Design, design
from ._group_fit import METHODS, effects
from ._log_ratios import centred_log_ratios

_FINDING = 0.1  # false discovery rate up to which the remarks speak of a finding
_LOG2 = np.log(2)


def compare_groups(
    bulk: AnnData,
    groupby: str,
    *,
    covariates: str | Sequence[str] | None = None,
    paired: str | None = None,
    batch_key: str | None = None,
    key: str = Keys.PROPORTIONS,
    reference: str | None = None,
    method: str = "weighted",
    level: float = 0.95,
    interval_level: float = 0.9,
    n_draws: int = 200,
    seed: int = 0,
    key_added: str = Keys.GROUPS,
) -> pd.DataFrame:
    r"""Compare the composition of groups of samples, type by type, with the uncertainty of every estimate.

    Fractions sum to one: where one type grows, others shrink. So the test is on centred log-ratios, log fraction less
    the mean log fraction of all types of the sample, and says which types change against the others. The intervals go
    in as draws: each fraction is drawn from a normal around its estimate, as wide as its interval and cut at zero, and
    the draws of a sample give the mean and the variance :math:`s_i^2` of its log-ratios. A zero thus stands as far down
    as its own interval reaches, and no constant is put in its place. The regression on groups and covariates weighs
    samples by :math:`1/(\tau^2 + s_i^2)` with :math:`\tau^2` the variance between samples (Paule and Mandel) and takes
    standard errors from the residuals (HC2), so that intervals that are too wide or too narrow cost power, not truth.
    Errors that all samples share, such as those of the platform or of the RNA content per cell, leave differences of
    log-ratios where they are between groups that were measured alike.

    Parameters
    ----------
    bulk
        Samples with proportions in ``obsm[key]`` and, where there are, their intervals in ``obsm[key + "_lower"]`` and
        ``obsm[key + "_upper"]``.
    groupby
        Column of ``bulk.obs`` with the group of each sample.
    covariates
        Columns of ``bulk.obs`` to compare at equal values of: numbers enter linearly, others as categories.
    paired
        Column of ``bulk.obs`` with the subject of each sample: groups are compared within subjects, as in a paired t
        test; with ``method="mixed"`` subjects are random, which also takes several samples of a subject in one group.
    batch_key
        Column of ``bulk.obs`` that says which samples were prepared and sequenced together. It enters as a covariate,
        and differences are then within batches.
    key
        The proportions in ``bulk.obsm``.
    reference
        The group the others are compared with; by default the first category, or the first in sorted order.
    method
        ``"weighted"`` as above; ``"ols"``: equal weights, where intervals only say how far down a zero is; ``"mixed"``:
        equal weights and a random intercept for each subject of `paired`; ``"draws"``: least squares on every draw,
        combined by Rubin's rules, which counts the errors twice, as they are in the scatter of the samples already,
        and finds little.
    level
        Of the intervals of effects.
    interval_level
        Of the intervals in ``bulk.obsm``.
    n_draws, seed
        Draws per sample, and their seed; the same seed gives the same table.
    key_added
        Key in ``bulk.uns`` of the results.

    Returns
    -------
    One row per type and group but the reference, with the columns

    - ``type``, ``group``, ``reference``, and the mean fractions ``mean_group`` and ``mean_reference``;
    - ``difference`` of fractions with ``difference_lower`` and ``difference_upper``, by the same design with equal
      weights;
    - ``log2_ratio`` of the fraction against the mean of all types, with ``log2_lower`` and ``log2_upper``;
    - ``p_value`` of the log-ratio and ``fdr`` (Benjamini and Hochberg over all rows);
    - with more than two groups ``p_omnibus`` and ``fdr_omnibus``: whether any group differs, over the types;
    - ``platform_limit``, the difference that two platforms could make between groups measured one on each: the typical
      half width of the intervals, times the root of two.

    NaN where a type is in no sample, or without intervals. ``.attrs["messages"]`` has remarks in words.
    ``bulk.uns[key_added]`` holds ``results`` (the table), ``messages`` and ``params``.

    Raises
    ------
    KeyError
        A column of ``bulk.obs`` or the proportions do not exist.
    ValueError
        A column has NaN; there is one group, or a group of one sample; `reference` is no group; covariates or batches
        decide the group (confounded), or leave no sample to judge by; nothing is paired; an option is out of range.
        `bulk` is then unchanged.

    Warns
    -----
    UserWarning
        There are no intervals, so that the estimates count as exact; among the findings (fdr up to 0.1) are differences
        that a change of platform could make, and no `batch_key` says that groups were measured alike; the level of the
        types is not calibrated (:meth:`hpvade.HPVADE.calibrate`) and there are findings; samples were skipped.

    References
    ----------
    Aitchison, *The Statistical Analysis of Compositional Data* (1986); Paule and Mandel, J. Res. NBS 87 (1982);
    MacKinnon and White, Journal of Econometrics 29 (1985); Rubin, *Multiple Imputation for Nonresponse in Surveys*
    (1987); Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995).

    Examples
    --------
    >>> import anndata, hpvade as hp, numpy as np, pandas as pd
    >>> p = np.random.default_rng(0).dirichlet([30, 50, 20], 12)
    >>> p[6:] = p[6:] * [3, 1, 1] / (p[6:] * [3, 1, 1]).sum(axis=1, keepdims=True)
    >>> bulk = anndata.AnnData(obs=pd.DataFrame({"group": ["ctrl"] * 6 + ["ill"] * 6}, index=list("abcdefghijkl")))
    >>> bulk.obsm["hpvade_proportions"] = pd.DataFrame(p, bulk.obs_names, ["B", "T", "NK"])
    >>> found = hp.tl.compare_groups(bulk, "group", method="ols")
    >>> found.set_index("type").loc["B", ["log2_ratio", "fdr"]].astype(float).round(2).tolist()
    [1.04, 0.0]
    """
    _check_options(method, paired, level, interval_level, n_draws)
    check_key(key_added)
    fractions = predicted(table(bulk, key)).astype(float)
    bounds = _bounds(bulk, key, fractions) if method in ("weighted", "draws") or _has_bounds(bulk, key) else None
    _check_fractions(fractions, key)
    plan, used = _design(bulk, fractions.index, groupby, covariates, paired, batch_key, reference, method)
    messages = []
    if bounds is None and method in ("weighted", "draws"):
        messages.append(
            f"bulk.obsm has no intervals ({Keys.bound(key, 'lower')!r}, {Keys.bound(key, 'upper')!r}): the estimates "
            "count as exact, zeros as half of the type's smallest fraction. Add get_proportion_intervals."
        )
    results = _results(fractions, bounds, plan, method, level, interval_level, n_draws, seed)
    messages += _remarks(results, bulk.uns.get(key, {}), batch_key)
    results.attrs["messages"] = messages
    bulk.uns[key_added] = {
        "results": _storable(results),
        "messages": np.array(messages, dtype=object),
        "params": {
            "hpvade_version": version("hpvade"),
            "groupby": groupby,
            "reference": plan.reference,
            "adjusted_for": np.array(used, dtype=object),
            "paired": paired or "",
            "key": key,
            "method": method,
            "intervals": bounds is not None,
            "level": level,
        },
    }
    if messages:
        warn(" ".join(messages))
    return results


def _check_options(method: str, paired: str | None, level: float, interval_level: float, n_draws: int) -> None:
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; expected one of {listed(METHODS)}.")
    if method == "mixed" and paired is None:
        raise ValueError("method='mixed' needs the column of subjects: paired='subject'.")
    for name, value in (("level", level), ("interval_level", interval_level)):
        if not 0 < value < 1:
            raise ValueError(f"{name}={value!r}; expected a share between 0 and 1, such as 0.9.")
    if n_draws < 20:
        raise ValueError(f"n_draws={n_draws!r}; expected at least 20.")


def _has_bounds(bulk: AnnData, key: str) -> bool:
    return all(Keys.bound(key, bound) in bulk.obsm for bound in ("lower", "upper"))


def _bounds(bulk: AnnData, key: str, fractions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Lower and upper bounds in the order of the fractions; a type without, such as the unknown, is exact."""
    if not _has_bounds(bulk, key):
        return None
    found = (table(bulk, Keys.bound(key, bound)).reindex_like(fractions) for bound in ("lower", "upper"))
    return tuple(bound.astype(float).fillna(fractions) for bound in found)


def _check_fractions(fractions: pd.DataFrame, key: str) -> None:
    values = fractions.to_numpy()
    if values.shape[1] < 2:
        raise ValueError(f"bulk.obsm[{key!r}] has {values.shape[1]} types; expected two or more.")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"bulk.obsm[{key!r}] has values that are negative or not finite; expected fractions.")


def _design(bulk, samples, groupby, covariates, paired, batch_key, reference, method) -> tuple[Design, list[str]]:
    covariates = list(covariates or []) if pd.api.types.is_list_like(covariates) else [covariates]
    covariates = [name for name in covariates if name is not None]
    one = {"groupby": groupby, "paired": paired, "batch_key": batch_key}
    for argument, name in [*one.items(), *(("covariates", name) for name in covariates)]:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"{argument} has {name!r}; expected names of columns of bulk.obs, each a text.")
    obs = bulk.obs.set_axis(bulk.obs_names.astype(str), axis=0)
    used = [*covariates, *([batch_key] if batch_key else [])]
    if batch_key in obs and not obs[batch_key].isna().any():
        obs = obs.assign(**{batch_key: obs[batch_key].astype(str)})  # numbers of batches are names
    if batch_key in obs and obs[batch_key].nunique() == 1:
        used = covariates  # one batch: there is nothing to adjust for
    return design(obs.loc[samples], groupby, used, paired, reference, method == "mixed"), used


def _results(fractions, bounds, plan, method, level, interval_level, n_draws, seed) -> pd.DataFrame:
    lower, upper = bounds or (None, None)
    ratios, variances, seen = centred_log_ratios(
        fractions, lower, upper, level=interval_level, n_draws=n_draws, seed=seed
    )
    limit = np.sqrt(2) * (upper - lower).median() / 2 if bounds else pd.Series(np.nan, fractions.columns)
    on_fractions = "mixed" if method == "mixed" else "ols"
    rows = []
    for name in fractions.columns:
        y = fractions[name].to_numpy()
        absolute = effects(y, np.zeros_like(y), plan, on_fractions, level)
        if name in seen:
            at = seen.get_loc(name)
            relative = effects(ratios[:, at], variances[:, at], plan, method, level)
        for i, group in enumerate(plan.others):
            row = {"type": str(name), "group": group, "reference": plan.reference}
            row["mean_group"], row["mean_reference"] = (y[plan.groups == g].mean() for g in (group, plan.reference))
            row |= {"difference": absolute.estimate[i]}
            row |= {"difference_lower": absolute.lower[i], "difference_upper": absolute.upper[i]}
            if name in seen:
                row |= {"log2_ratio": relative.estimate[i] / _LOG2}
                row |= {"log2_lower": relative.lower[i] / _LOG2, "log2_upper": relative.upper[i] / _LOG2}
                row |= {"p_value": relative.p_value[i], "p_omnibus": relative.p_omnibus}
            rows.append(row | {"platform_limit": limit[name]})
    columns = ["type", "group", "reference", "mean_group", "mean_reference", "difference", "difference_lower"]
    columns += ["difference_upper", "log2_ratio", "log2_lower", "log2_upper", "p_value", "fdr", "p_omnibus"]
    results = pd.DataFrame(rows).reindex(columns=[*columns, "fdr_omnibus", "platform_limit"])
    results["fdr"] = _fdr(results["p_value"])
    if len(plan.others) == 1:
        return results.drop(columns=["p_omnibus", "fdr_omnibus"])
    once = ~results["type"].duplicated()
    by_type = dict(zip(results["type"][once], _fdr(results["p_omnibus"][once]), strict=True))
    results["fdr_omnibus"] = results["type"].map(by_type)
    return results


def _fdr(p_values: pd.Series) -> pd.Series:
    from statsmodels.stats.multitest import multipletests

    known = p_values.dropna()
    adjusted = multipletests(known, method="fdr_bh")[1] if len(known) else []
    return pd.Series(adjusted, known.index, dtype=float).reindex(p_values.index)


def _remarks(results: pd.DataFrame, provenance, batch_key: str | None) -> list[str]:
    """What stands between the table and a conclusion."""
    messages = []
    if (never := results["type"][results["p_value"].isna()].unique()).size:
        messages.append(f"No sample has {listed(never)}: nothing to compare.")
    findings = results[results["fdr"] <= _FINDING]
    small = findings[findings["difference"].abs() < findings["platform_limit"]]
    if len(small) and batch_key is None:
        messages.append(
            f"{len(small)} of {len(findings)} findings ({listed(small['type'].unique())}) are smaller than what two "
            "platforms could make of one composition (platform_limit). They stand only if all groups were prepared and "
            "sequenced together: name the batches in batch_key, which compares within them."
        )
    if len(findings) and "calibrated" in provenance and not provenance["calibrated"]:
        messages.append(
            "The level of the types is not calibrated (HPVADE.calibrate): log-ratios hold, while a difference of "
            "fractions may be off by the factor that its type's level is off."
        )
    return messages


def _storable(results: pd.DataFrame) -> pd.DataFrame:
    """As h5ad and zarr take it: names of rows are strings."""
    stored = results.set_axis(results.index.astype(str), axis=0)
    stored.attrs = {}
    return stored
