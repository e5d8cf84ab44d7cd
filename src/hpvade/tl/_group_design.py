"""Groups, covariates and pairs of samples as the columns of a linear model, or an error that says what is wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .._text import listed


@dataclass
class Design:
    """A linear model of groups.

    Attributes
    ----------
    matrix
        Samples x columns: intercept, one 0/1 column per group but the reference, covariates.
    groups
        Group of every sample.
    others
        Names of the groups other than the reference, in order; columns 1 to ``len(others)`` of `matrix`.
    reference
        Name of the reference group.
    subjects
        Subject of every sample where subjects are random effects, else None.
    """

    matrix: np.ndarray
    groups: np.ndarray
    others: list[str]
    reference: str
    subjects: np.ndarray | None = None


def design(
    obs: pd.DataFrame, groupby: str, covariates: Sequence[str], paired: str | None, reference: str | None, mixed: bool
) -> Design:
    """The columns for the samples in `obs`."""
    names = [groupby, *covariates, *([paired] if paired else [])]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"{listed(repeated)} is used twice: groupby, covariates, batch_key and paired must differ.")
    for name in names:
        _complete(obs, name)
    groups, levels = _groups(obs[groupby], groupby)
    reference = levels[0] if reference is None else str(reference)
    if reference not in levels:
        raise ValueError(f"reference={reference!r} is no group of bulk.obs[{groupby!r}], which has {listed(levels)}.")
    others = [level for level in levels if level != reference]
    group = np.column_stack([groups == level for level in others]).astype(float)
    known = {name: _columns(obs[name], name) for name in covariates}
    if paired and not mixed:
        known[paired] = pd.get_dummies(obs[paired].astype(str), drop_first=True).to_numpy(dtype=float)
    one = np.ones((len(obs), 1))
    _check_confounded(group, one, known, groupby, paired)
    matrix = np.hstack([one, group, *known.values()])
    rank = np.linalg.matrix_rank(matrix)
    if rank >= len(obs):
        raise ValueError(
            f"{len(obs)} samples for {rank} unknowns ({listed(names, 10)}): nothing is left to judge by. Use fewer "
            "covariates, or more samples."
        )
    subjects = obs[paired].astype(str).to_numpy() if paired and mixed else None
    if subjects is not None and len(np.unique(subjects)) in (1, len(subjects)):
        raise ValueError(
            f"bulk.obs[{paired!r}] has {len(np.unique(subjects))} subjects for {len(subjects)} samples; expected "
            "several, some of them with two samples or more."
        )
    return Design(matrix, groups, others, reference, subjects)


def _complete(obs: pd.DataFrame, name: str) -> None:
    if name not in obs:
        raise KeyError(f"bulk.obs has no column {name!r}; it has {listed(obs, 20)}.")
    if (missing := obs.index[obs[name].isna()]).size:
        raise ValueError(
            f"bulk.obs[{name!r}] is missing (NaN) for {len(missing)} samples: {listed(missing)}. Fill it in, or leave "
            f"these samples out: `bulk[bulk.obs[{name!r}].notna()].copy()`."
        )


def _groups(column: pd.Series, groupby: str) -> tuple[np.ndarray, list[str]]:
    """Names of the samples' groups, and all of them in order: of the categories, or sorted."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = list(column.cat.remove_unused_categories().cat.categories)
    else:
        levels = sorted(column.unique())
    sizes = Counter(column)
    if len(levels) == 1:
        raise ValueError(f"bulk.obs[{groupby!r}] has one group, {listed(levels)}; expected two or more.")
    if single := [level for level in levels if sizes[level] < 2]:
        raise ValueError(
            f"{listed(single)} of bulk.obs[{groupby!r}] has one sample, which has no spread; expected two or more in "
            "each group. Merge it with another group, or leave it out."
        )
    return column.astype(object).map(str).to_numpy(), [str(level) for level in levels]


def _columns(column: pd.Series, name: str) -> np.ndarray:
    """A number by itself, centred and scaled; a category as 0/1 columns."""
    if column.nunique() < 2:
        raise ValueError(f"covariate {name!r} is the same in all samples, {column.iloc[0]!r}: leave it out.")
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        values = column.to_numpy(dtype=float)
        if not np.isfinite(values).all():
            raise ValueError(f"covariate {name!r} has infinite values.")
        return ((values - values.mean()) / values.std())[:, None]
    return pd.get_dummies(column.astype(str), drop_first=True).to_numpy(dtype=float)


def _check_confounded(group: np.ndarray, one: np.ndarray, known: dict, groupby: str, paired: str | None) -> None:
    """An error where covariates decide the group, so that the difference could be theirs."""

    def decides(*parts: np.ndarray) -> bool:
        rest = np.hstack([one, *parts])
        return np.linalg.matrix_rank(np.hstack([rest, group])) < np.linalg.matrix_rank(rest) + group.shape[1]

    if not decides(*known.values()):
        return
    if paired in known and decides(known[paired]):
        raise ValueError(
            f"no subject of {paired!r} has samples in the groups of {groupby!r} that are compared, so nothing is "
            "paired. For several samples per subject, each subject in one group, use method='mixed'."
        )
    alone = [name for name, columns in known.items() if decides(columns)]
    raise ValueError(
        f"groups of {groupby!r} are confounded with {listed(alone) if alone else 'the covariates together'}"
        f"{'' if alone else ' (' + listed(known) + ')'}: each group has its own values, so no analysis can tell whose "
        "difference it is. Leave the covariate out and say so, or add samples that break the tie."
    )
