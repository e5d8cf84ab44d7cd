from collections.abc import Sequence

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix


def planted_cohort(
    n_types: int = 5,
    n_genes: int = 500,
    n_donors: int = 4,
    n_cells: int = 1000,
    n_samples: int = 20,
    *,
    rna_content: Sequence[float] | None = None,
    platform_sd: float = 0.0,
    donor_sd: float = 0.2,
    batch_sd: float = 0.0,
    unknown: float = 0.0,
    similar: float = 0.0,
    concentration: float | Sequence[float] = 1.0,
    markers: float = 0.3,
    umi: float = 2000.0,
    depth: float = 1e6,
    dispersion: float = 0.05,
    seed: int = 0,
) -> tuple[ad.AnnData, ad.AnnData]:
    r"""Draw a labelled reference and bulk samples of other donors from one known model.

    Types differ by marker genes and by RNA content :math:`m_k`. A type's profile in donor n is the shared profile
    :math:`s_{gk}` with log-normal deviations, closed to one over genes:
    :math:`s_{ngk} \propto s_{gk} e^{d_{ngk}}`, :math:`d \sim N(0, \mathrm{donor\_sd}^2)`. Then

    .. math::

        \text{cell } c \text{ of type } k: \quad & x_{cg} \sim NB(\ell_c\, \mathrm{umi}\, m_k\, s_{ngk}\, b_g) \\
        \text{bulk sample } n: \quad & r_{nk} = p_{nk} m_k \big/ \textstyle\sum_j p_{nj} m_j \\
        & q_{ng} = (1 - u_n) \textstyle\sum_k r_{nk} s_{ngk} + u_n h_g \\
        & y_{ng} \sim NB\big(L_n\, a_g q_{ng} \big/ \textstyle\sum_{g'} a_{g'} q_{ng'}\big)

    with variance :math:`\mu + \mathrm{dispersion}\, \mu^2`, cell sizes :math:`\ell_c` log-normal (sd 0.2, mean one),
    gene factors of a batch :math:`\log b_g \sim N(0, \mathrm{batch\_sd}^2)` and of the bulk platform
    :math:`\log a_g \sim N(0, \mathrm{platform\_sd}^2)`, :math:`p_n \sim` Dirichlet(`concentration`),
    :math:`u_n \sim` Beta with mean `unknown`, and :math:`L_n` log-uniform within a factor two of `depth`.
    Every sample is a donor of its own. With one seed and one set of sizes, profiles, proportions and nuisance
    directions stay the same while the standard deviations, `unknown`, `depth` and `dispersion` are varied.

    Parameters
    ----------
    n_types, n_genes, n_donors, n_cells, n_samples
        Numbers of types, genes, reference donors, reference cells in all, and bulk samples. Cells are spread evenly
        over types and donors, so the reference says nothing about composition.
    rna_content
        Relative RNA per cell of each type; by default evenly spaced on a log scale from 1 to 4.
    platform_sd, donor_sd, batch_sd
        Standard deviations of log factors, see above; donors alternate between two batches.
    unknown
        Mean share of a sample's RNA, from 0 to below 1, with a profile that is not in the reference.
    similar
        In [0, 1]: how far the last type's log profile is moved towards the one before it (1: identical).
    concentration
        Dirichlet concentration of the bulk proportions, one number or one per type.
    markers
        Share of genes, in [0, 1], that are marker genes (12 times higher in one type), split evenly over types.
    umi, depth
        Expected counts of a reference cell of average (geometric mean) RNA content, and of a bulk sample.
    dispersion
        Negative-binomial over-dispersion; 0 draws Poisson counts.
    seed
        Seed of the random generator.

    Returns
    -------
    reference, bulk
        ``reference``: cells x genes, integer counts (CSR float32), obs ``cell_type``, ``donor``, ``batch``.

        ``bulk``: samples x genes, integer counts (dense float32), ``obsm["proportions"]`` (fractions of cells) and
        ``obsm["rna_proportions"]`` (fractions of the known types' RNA), each summing to one; obs ``donor``, ``depth``
        (:math:`L_n`) and ``unknown`` (:math:`u_n`); var ``platform_factor`` (:math:`a_g`) and ``unknown_profile``
        (:math:`h_g`).

        Both: ``varm["signature"]``, genes x types, expected counts per cell :math:`\mathrm{umi}\, m_k s_{gk}`, and
        ``uns["rna_content"]``, :math:`m_k` with geometric mean one.

    Raises
    ------
    ValueError
        If a size, share or standard deviation is out of range.

    Examples
    --------
    >>> import hpvade as hp
    >>> reference, bulk = hp.datasets.planted_cohort(n_types=3, platform_sd=0.5, seed=1)
    >>> reference.shape, bulk.shape
    ((1000, 500), (20, 500))
    """
    _check(n_types, n_genes, n_donors, n_cells, n_samples)
    _check_range("at most 1", unknown=unknown, similar=similar, markers=markers)
    _check_range("finite", platform_sd=platform_sd, donor_sd=donor_sd, batch_sd=batch_sd, dispersion=dispersion)
    _check_range("finite", umi=umi, depth=depth)
    if unknown == 1:
        raise ValueError("unknown is 1; expected less, since such samples would hold nothing of the reference")
    rna = np.geomspace(1, 4, n_types) if rna_content is None else np.asarray(rna_content, dtype=float)
    if rna.shape != (n_types,) or not (np.isfinite(rna).all() and (rna > 0).all()):
        raise ValueError(f"rna_content is {rna_content}; expected {n_types} positive numbers, one per type")
    rna = rna / np.exp(np.log(rna).mean())
    of_types, of_cells, of_bulk = np.random.default_rng(seed).spawn(3)
    log_profiles, unknown_profile = _log_profiles(of_types, n_types, n_genes, markers, similar)
    types = [f"type_{k}" for k in range(n_types)]
    genes = pd.Index([f"gene_{g:04d}" for g in range(1, n_genes + 1)])
    signature = pd.DataFrame(umi * rna * _close(log_profiles), index=genes, columns=types)

    def adata(counts, obs, var):
        var = pd.DataFrame(var, index=genes)
        return ad.AnnData(
            counts, obs=obs, var=var, varm={"signature": signature.copy()}, uns={"rna_content": rna.copy()}
        )

    # the reference: every donor has its own profiles, every batch its own gene factors
    cell = np.arange(n_cells)
    k, donor = cell % n_types, cell // n_types % n_donors
    means = umi * rna[:, None] * _donor_profiles(of_cells, log_profiles, donor_sd, n_donors)
    means = means * np.exp(batch_sd * of_cells.standard_normal((2, n_genes)))[np.arange(n_donors) % 2, None]
    size = np.exp(0.2 * of_cells.standard_normal(n_cells) - 0.02)
    counts = csr_matrix(_counts(of_cells, size[:, None] * means[donor, k], dispersion))
    obs = {
        "cell_type": pd.Categorical.from_codes(k, types),
        "donor": pd.Categorical([f"donor_{d}" for d in donor]),
        "batch": pd.Categorical([f"batch_{d % 2}" for d in donor]),
    }
    reference = adata(counts, pd.DataFrame(obs, index=[f"cell_{c}" for c in cell]), {})

    # the bulk: new donors, one shared platform factor
    samples = [f"sample_{n}" for n in range(n_samples)]
    p = of_bulk.dirichlet(np.broadcast_to(concentration, n_types), n_samples)
    depths = depth * 2.0 ** of_bulk.uniform(-1, 1, n_samples)
    platform = np.exp(platform_sd * of_bulk.standard_normal(n_genes))
    profiles = _donor_profiles(of_bulk, log_profiles, donor_sd, n_samples)
    u = of_bulk.beta(10 * unknown, 10 * (1 - unknown), n_samples) if unknown else np.zeros(n_samples)
    r = p * rna / (p @ rna)[:, None]
    q = (1 - u)[:, None] * np.einsum("nk,nkg->ng", r, profiles) + u[:, None] * unknown_profile
    seen = platform * q
    counts = _counts(of_bulk, depths[:, None] * seen / seen.sum(1, keepdims=True), dispersion)
    obs = {"donor": [f"bulk_donor_{n}" for n in range(n_samples)], "depth": depths, "unknown": u}
    bulk = adata(
        counts,
        pd.DataFrame(obs, index=samples),
        {"platform_factor": platform, "unknown_profile": unknown_profile},
    )
    bulk.obsm["proportions"] = pd.DataFrame(p, index=samples, columns=types)
    bulk.obsm["rna_proportions"] = pd.DataFrame(r, index=samples, columns=types)
    return reference, bulk


def _log_profiles(rng, n_types, n_genes, markers, similar):
    """Log profiles (genes x types) before closure, and the closed profile (genes,) that no type has."""
    base = rng.normal(0, 1.5, n_genes)
    log_profiles = base[:, None] + rng.normal(0, 0.3, (n_genes, n_types))
    order = rng.permutation(n_genes)[: round(markers * n_genes)]
    log_profiles[order, np.arange(len(order)) % n_types] += 2.5
    log_profiles[:, -1] += similar * (log_profiles[:, -2] - log_profiles[:, -1])
    return log_profiles, _close(base + rng.normal(0, 0.8, n_genes))


def _close(log_profiles):
    """Exponentiate and scale to sum one over genes, the first axis."""
    profiles = np.exp(log_profiles)
    return profiles / profiles.sum(0)


def _donor_profiles(rng, log_profiles, donor_sd, n_donors):
    """Closed profiles of each donor, donors x types x genes."""
    deviations = donor_sd * rng.standard_normal((n_donors, *log_profiles.T.shape))
    profiles = np.exp(log_profiles.T + deviations)
    return profiles / profiles.sum(-1, keepdims=True)


def _counts(rng, mean, dispersion):
    """Negative-binomial counts as a gamma mixture of Poisson counts."""
    if dispersion:
        mean = rng.gamma(1 / dispersion, dispersion * mean)
    return rng.poisson(mean).astype(np.float32)


def _check(n_types, n_genes, n_donors, n_cells, n_samples):
    sizes = {"n_genes": n_genes, "n_donors": n_donors, "n_samples": n_samples}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    if n_types < 2:
        raise ValueError(f"n_types is {n_types}; expected at least 2")
    if n_cells < n_types * n_donors:
        raise ValueError(
            f"n_cells is {n_cells}; expected at least n_types * n_donors = {n_types * n_donors}, "
            "so that every donor has every type"
        )


def _check_range(limit, **values):
    for name, value in values.items():
        if not 0 <= value < np.inf or (limit == "at most 1" and value > 1):
            raise ValueError(f"{name} is {value}; expected a number that is not negative and {limit}")
