"""From the numbers of `diagnose` to plain words, with the limits in one place."""

import pandas as pd

from .._text import listed

# Set on development cohorts with an earlier engine. Blood of another platform passes UNEXPLAINED with no lineage
# missing, and no limit tells the two apart (benchmarks/verdict.py): the amount is said, and its cause left open.
PERCENTILE = 99.0
UNEXPLAINED = 0.15
UNKNOWN = 0.2
DISAGREEMENT = 0.25
ZEROS = 0.8
APART, ALONE = 0.1, 1.5  # of one study from the others, and against how far these are apart
COSINE = 0.98  # beyond it, two types are one
CONDITION = 100.0
EXPRESSION_OVERLAP = 0.7
DISTANCE = 1.0  # e-fold; the development cohorts lie at 0.5 to 0.9
FACTOR_R2 = 0.3
DRIFT = 0.5
RECOVERY = 0.5  # less than half of a type's own RNA is found as its own
CONSTANT_SD = 0.005
MANY = 0.5  # share of the samples from which on something is the cohort's matter

GOOD = "No sign of trouble."


def sample_verdicts(rows: pd.DataFrame) -> tuple[list[str], list[bool]]:
    """One sentence or more per sample (rows with the columns of `tl.diagnose`), and whether anything was found."""
    verdicts = []
    for row in rows.itertuples():
        found = []
        if row.percentile >= PERCENTILE:
            found.append(
                f"The model fits this sample worse than {row.percentile:.0f} % of simulated ones: "
                "look for a swapped or failed sample, another tissue, or a type that the reference lacks."
            )
        if row.missing:
            found.append(
                f"It expresses markers of {row.missing} beyond what the reference's types explain, and no label means "
                "that: missing from the reference; the known types share what is left."
            )
        if row.unknown > UNKNOWN:
            found.append(
                f"About {row.unknown:.0%} of its RNA varies between samples as no type of the reference does: a type "
                "or state that the reference lacks; see deconvolve(unknown=True)."
            )
        elif row.unexplained > UNEXPLAINED:
            found.append(
                f"About {row.unexplained:.0%} of its expression is more than the reference explains: another platform, "
                "or a type or state that the reference lacks. The amount does not tell which."
            )
        if row.disagreement > DISAGREEMENT:
            found.append(
                f"Network and regression place {row.disagreement:.0%} of the RNA differently: "
                "take its proportions with care."
            )
        if row.zeros > ZEROS:
            found.append(f"{row.zeros:.0%} of the genes have no reads: sequenced too shallowly for rare types.")
        verdicts.append(" ".join(found) or GOOD)
    return verdicts, [verdict != GOOD for verdict in verdicts]


def cohort_messages(summary: dict, rows: pd.DataFrame) -> list[str]:
    """What concerns the cohort or the model, each with its remedy; empty when there is nothing to say."""
    n_samples, types = len(rows), summary["types"]
    first, second = summary["most_similar"]
    share = ((rows["unexplained"] > UNEXPLAINED) | (rows["unknown"] > UNKNOWN)).mean()
    genes = summary["residual_genes"].query("informative").index[:5]
    lost = types["recovery"][types["recovery"] < RECOVERY].sort_values()
    checks = [
        (
            n_samples == 1,
            "There is one sample, hence no gene factor: how the platforms differ shows in a cohort only. "
            "Deconvolve samples of one protocol together.",
        ),
        (
            summary["expression_overlap"] < EXPRESSION_OVERLAP,
            f"The bulk has genes with {summary['expression_overlap']:.0%} of the reference's expression. "
            "Check gene names, or train the model on the genes that both have.",
        ),
        (
            summary["max_cosine"] > COSINE,
            f"{first!r} and {second!r} are nearly proportional (cosine {summary['max_cosine']:.3f}): only their sum "
            "can be trusted. Merge the two labels, or use the coarser level of a hierarchy.",
        ),
        (
            summary["condition_number"] > CONDITION and summary["max_cosine"] <= COSINE,
            f"The signature is ill-conditioned ({summary['condition_number']:.0f}): a type is nearly a mixture of "
            "others. Merge types, beginning with the most similar ones.",
        ),
        (
            summary["platform_distance"] > DISTANCE,
            f"The bulk's platform is unusually far from the reference's ({summary['platform_distance']:.2f}). Check "
            "units and tissue; a reference of a similar protocol would help.",
        ),
        (
            summary["factor_r2"] > FACTOR_R2,
            f"{summary['factor_r2']:.0%} of the gene factor looks like differences between types: level may have gone "
            "into it. Compare with a known sample.",
        ),
        (
            share >= MANY,
            f"{share:.0%} of the samples have much expression that the reference does not explain, most of it in "
            f"{listed(genes)}: another platform, or a type or state that the reference lacks. The amount does not tell "
            "which; see whether these genes belong to a type.",
        ),
        (
            n_samples > 2 and types["sd"].max() < CONSTANT_SD,
            f"All samples are alike: no type varies by more than {types['sd'].max():.4f} (standard deviation). Such a "
            "result says no more than a constant; check units and gene names.",
        ),
        (
            len(lost) > 0,
            "Of the reference's own cells, held out and mixed, these types are found at a part of their share: "
            f"{listed([f'{name!r} at {share:.0%}' for name, share in lost.items()])}. Their profiles come from few "
            "cells and resemble others, which get the rest, here too. Add cells of them, or merge them with what they "
            "resemble.",
        ),
        (
            summary["drift"] > DRIFT,
            f"The mean composition is far from the reference's (half the summed difference is {summary['drift']:.2f}), "
            f"most in {(types['mean'] - types['reference']).abs().idxmax()!r}. Expected of sorted or diseased tissue "
            "or of references with chosen cells; otherwise check the tissue.",
        ),
    ]
    if "studies" in summary:
        apart = summary["studies"]["disagreement"]
        name, others = apart.idxmax(), apart.drop(apart.idxmax())
        alone = len(others) > 1 and apart.max() > APART and apart.max() > ALONE * others.median()
        checks.append(
            (
                alone,
                f"Study {name!r} answers unlike the others (half the summed difference to their mean is "
                f"{apart.max():.2f}; theirs is {others.median():.2f}). Check its labels with hpvade.tl.check_labels, "
                "or leave it out.",
            )
        )
    return [text for is_true, text in checks if is_true]


def evaluation_messages(evaluation: pd.DataFrame) -> list[str]:
    """Whether one of the baselines is nearer to the truth."""
    errors = evaluation["rmse"]
    baselines = (
        ("constant", "the cohort's mean", "Compare per_type_r, and calibrate if the level is off."),
        ("nnls", "non-negative least squares", "Check units, and whether the bulk was made of these cells."),
    )
    return [
        f"Against the truth, {name} has the smaller error (RMSE {errors[other]:.3f}, here {errors.iloc[0]:.3f}). "
        f"{remedy}"
        for other, name, remedy in baselines
        if errors.iloc[0] >= errors[other]
    ]
