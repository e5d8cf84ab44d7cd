"""A paragraph of methods to paste into a paper, with its references."""

from collections.abc import Mapping

from anndata import AnnData

from .._text import listed

REFERENCES = (
    "Gayoso A, et al. A Python library for probabilistic analysis of single-cell omics data. Nature Biotechnology 40, "
    "163-166 (2022).",
    "Virshup I, et al. anndata: Access and store annotated data matrices. Journal of Open Source Software 9, 4371 "
    "(2024).",
    "White H. A heteroskedasticity-consistent covariance matrix estimator and a direct test for heteroskedasticity. "
    "Econometrica 48, 817-838 (1980).",
    "Vovk V. Cross-conformal predictors. Annals of Mathematics and Artificial Intelligence 74, 9-28 (2015).",
)
OF_GROUPS = (
    "Aitchison J. The Statistical Analysis of Compositional Data. Chapman and Hall (1986).",
    "Paule RC, Mandel J. Consensus values and weighting factors. Journal of Research of the National Bureau of "
    "Standards 87, 377-385 (1982).",
    "MacKinnon JG, White H. Some heteroskedasticity-consistent covariance matrix estimators with improved finite "
    "sample properties. Journal of Econometrics 29, 305-325 (1985).",
    "Benjamini Y, Hochberg Y. Controlling the false discovery rate. Journal of the Royal Statistical Society B 57, "
    "289-300 (1995).",
)
_TESTS = {
    "weighted": "by a regression that weighs each sample by the variance between samples [6] plus that of its "
    "estimate, with standard errors from the residuals [7]",
    "draws": "by least squares on draws from the intervals, combined by Rubin's rules",
    "ols": "by least squares on the estimates",
    "mixed": "by a linear model with a random intercept for each subject",
}


def methods(bulk: AnnData, model, summary: Mapping, provenance: Mapping, comparison: Mapping | None = None) -> str:
    """What was done, in words that a reader of a paper needs."""
    level = (
        "The level of each type was calibrated with samples of measured composition."
        if provenance.get("calibrated")
        else "The level of each type rests on the RNA content per cell of the reference; it was not calibrated."
    )
    batches = f" in each of {len(summary['batches'])} batches" if "batches" in summary else ""
    compared = "" if comparison is None or "results" not in comparison else _compared(comparison["params"])
    return (
        f"Cell-type proportions of {bulk.n_obs} bulk RNA-seq samples were estimated with hpvade "
        f"{summary['hpvade_version']}, built on scvi-tools [1] and AnnData [2], from a labelled single-cell reference "
        f"of {len(model.cell_types)} cell types. Expression ({summary['input_type']}) was aligned by gene name "
        f"({summary['n_genes']} genes shared, {summary['gene_overlap']:.0%} of the model's). A robust regression on "
        f"{summary['n_genes_fitted']} genes with one factor per gene for the difference between the two platforms"
        f"{batches} gave fractions of RNA, which were divided by the RNA content per cell of each type to give "
        "fractions of cells. "
        f"{level} Intervals hold 90 % of the draws around the estimate, with the sandwich covariance of the regression "
        "[3] scaled by the errors in held-out parts of the reference [4]. Samples were compared with simulated cohorts "
        f"of the same composition, depth and platform distance ({summary['n_simulated']} samples); those fitted worse "
        "than 99 % of them, or with expression that no type explains, were flagged." + compared
    )


def _compared(params: Mapping) -> str:
    """How groups were compared."""
    used = [str(name) for name in params["adjusted_for"]]
    adjusted = f", adjusted for {listed(used)}" if used else ""
    paired = f", within subjects ({params['paired']})" if params["paired"] else ""
    return (
        f" Groups ({params['groupby']}; reference {params['reference']}{adjusted}{paired}) were compared on centred "
        f"log-ratios of the fractions [5] {_TESTS[str(params['method'])]}; the false discovery rate was controlled "
        "over all types and groups [8]."
    )
