from collections.abc import Mapping

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

_TYPES = "cell_type"


def planted_contexts(
    n_cells: int = 2000,
    n_genes: int = 500,
    *,
    fields: Mapping[str, int] | None = None,
    n_types: int = 4,
    effect_sd: float = 1.0,
    affected: float = 0.2,
    specific_sd: float = 0.0,
    umi: float = 3000.0,
    dispersion: float = 0.1,
    seed: int = 0,
) -> ad.AnnData:
    r"""Draw cells whose metadata fields have known additive effects on log expression.

    .. math::

        \log \mu_{cg} = b_g + k_{g, \mathrm{type}(c)} + \sum_f \big(e^f_{g, \mathrm{category}_f(c)}
        + i^f_{g, \mathrm{category}_f(c), \mathrm{type}(c)}\big), \qquad
        x_{cg} \sim NB\big(\ell_c\, \mathrm{umi}\, \mu_{cg} / \textstyle\sum_{g'} \mu_{cg'}\big)

    Types and categories are drawn independently, categories with unequal frequencies. A field changes the share
    `affected` of the genes, each category by :math:`N(0, \mathrm{effect\_sd}^2)`, centred over the categories.

    Parameters
    ----------
    n_cells, n_genes
        Size of the data.
    fields
        ``{name: number of categories}``; by default ``{"condition": 2, "tissue": 3, "sex": 2}``. Categories are
        ``"<name>_0"``, ``"<name>_1"``, ...
    n_types
        Number of cell types (obs ``cell_type``).
    effect_sd, affected
        Size of the effects on the log scale, and share of genes that a field changes.
    specific_sd
        Standard deviation of what a field changes in one type only, :math:`i^f`, on the genes that it changes.
    umi
        Mean counts per cell; cell sizes :math:`\ell_c` are log-normal (sd 0.2).
    dispersion
        Negative-binomial over-dispersion; 0 draws Poisson counts.
    seed
        Seed of the random generator.

    Returns
    -------
    Cells x genes, integer counts (CSR float32), obs ``cell_type`` and one column per field; ``varm["effect_<field>"]``
    holds :math:`e^f` (genes x categories), ``varm["type_profile"]`` :math:`b + k` (genes x types).

    Raises
    ------
    ValueError
        A number is out of range, or a field has fewer than one category.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.datasets.planted_contexts(100, 50, fields={"sex": 2})
    >>> adata.shape, list(adata.varm["effect_sex"])
    ((100, 50), ['sex_0', 'sex_1'])
    """
    fields = {"condition": 2, "tissue": 3, "sex": 2} if fields is None else dict(fields)
    _check(n_cells, n_genes, n_types, fields, affected)
    rng = np.random.default_rng(seed)
    genes = pd.Index([f"gene_{g:04d}" for g in range(1, n_genes + 1)])
    types = [f"type_{k}" for k in range(n_types)]
    profile = rng.normal(0, 1.2, (n_genes, 1)) + np.where(
        rng.random((n_genes, n_types)) < 0.3, rng.normal(0, 1.0, (n_genes, n_types)), 0
    )
    kind = rng.integers(n_types, size=n_cells)
    obs, log_mean = {_TYPES: pd.Categorical.from_codes(kind, types)}, profile.T[kind]
    varm = {"type_profile": pd.DataFrame(profile, index=genes, columns=types)}
    for name, n in fields.items():
        changed = rng.random((n_genes, 1)) < affected
        effect = rng.normal(0, effect_sd, (n_genes, n)) * changed
        effect -= effect.mean(axis=1, keepdims=True)
        frequency = np.linspace(1, 2, n)
        category = rng.choice(n, size=n_cells, p=frequency / frequency.sum())
        names = [f"{name}_{i}" for i in range(n)]
        obs[name] = pd.Categorical.from_codes(category, names)
        varm[f"effect_{name}"] = pd.DataFrame(effect, index=genes, columns=names)
        specific = rng.normal(0, specific_sd, (n, n_types, n_genes)) * changed.T
        log_mean = log_mean + effect.T[category] + specific[category, kind]
    mean = np.exp(log_mean)
    mean *= umi * np.exp(0.2 * rng.standard_normal((n_cells, 1)) - 0.02) / mean.sum(axis=1, keepdims=True)
    if dispersion:
        mean = rng.gamma(1 / dispersion, dispersion * mean)
    counts = csr_matrix(rng.poisson(mean).astype(np.float32))
    return ad.AnnData(
        counts,
        obs=pd.DataFrame(obs, index=[f"cell_{c}" for c in range(n_cells)]),
        var=pd.DataFrame(index=genes),
        varm=varm,
    )


def _check(n_cells: int, n_genes: int, n_types: int, fields: Mapping[str, int], affected: float) -> None:
    for name, value in {"n_cells": n_cells, "n_genes": n_genes, "n_types": n_types, **fields}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1.")
    if _TYPES in fields:
        raise ValueError(f"fields holds {_TYPES!r}, the column of the types; expected other names.")
    if not 0 <= affected <= 1:
        raise ValueError(f"affected is {affected}; expected a share of genes from 0 to 1.")
