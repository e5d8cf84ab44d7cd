"""The words of `tl.diagnose`: each limit speaks when crossed, and only then."""

import pandas as pd
import pytest

from hpvade.tl._verdict import GOOD, cohort_messages, evaluation_messages, sample_verdicts


def sample(**changes):
    good = {"percentile": 50.0, "unexplained": 0.02, "unknown": 0.01, "disagreement": 0.05, "zeros": 0.1}
    return pd.DataFrame([good | {"residual": 0.1, "missing": ""} | changes])


def types_with(**changes):
    good = {"mean": [0.6, 0.4], "sd": [0.1, 0.1], "reference": [0.5, 0.5], "recovery": [1.0, 0.6]}
    return pd.DataFrame(good | changes, index=["T", "B"])


def summary(**changes):
    types = types_with()
    genes = pd.DataFrame({"excess": [0.02, 0.01], "informative": [False, True]}, index=["RPS27", "LYZ"])
    good = {
        "expression_overlap": 1.0,
        "max_cosine": 0.6,
        "most_similar": ["CD4 T", "CD8 T"],
        "condition_number": 5.0,
        "platform_distance": 0.6,
        "factor_r2": 0.0,
        "drift": 0.1,
        "types": types,
        "residual_genes": genes,
    }
    return good | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"percentile": 99.5}, "worse than 100 % of simulated ones"),
        ({"unexplained": 0.234}, "About 23% of its expression"),
        ({"unexplained": 0.151}, "another platform, or a type or state that the reference lacks"),
        ({"missing": "B, NK"}, "expresses markers of B, NK beyond"),
        ({"unknown": 0.31}, "About 31% of its RNA varies"),
        ({"unknown": float("nan"), "unexplained": 0.234}, "About 23% of its expression"),
        ({"disagreement": 0.3}, "30% of the RNA differently"),
        ({"zeros": 0.9}, "90% of the genes have no reads"),
    ],
)
def test_samples(changes, words):
    (verdict,), (flagged,) = sample_verdicts(sample(**changes))
    assert words in verdict and flagged
    assert sample_verdicts(sample()) == ([GOOD], [False])


def test_a_sample_with_two_problems_names_both():
    (verdict,), _ = sample_verdicts(sample(percentile=100.0, unexplained=0.3))
    assert "swapped" in verdict and "30%" in verdict


def evaluation(own, nnls=0.2, constant=0.1):
    return pd.DataFrame({"rmse": [own, nnls, constant]}, index=["hpvade", "nnls", "constant"])


def studies(*apart):
    return pd.DataFrame({"disagreement": apart}, index=list("abcdef")[: len(apart)])


@pytest.mark.parametrize("apart", [(0.3, 0.3), (0.3, 0.25, 0.28), (0.09, 0.01, 0.02)])
def test_studies_that_agree_or_are_two_are_not_named(apart):
    assert cohort_messages(summary(studies=studies(*apart)), pd.concat([sample()] * 2)) == []


@pytest.mark.parametrize(
    ("changes", "rows", "words"),
    [
        ({}, sample(), "one sample, hence no gene factor"),
        ({"expression_overlap": 0.5}, None, "genes with 50% of the reference's expression"),
        ({"studies": studies(0.3, 0.1, 0.12)}, None, "Study 'a' answers unlike the others (half the summed difference"),
        ({"max_cosine": 0.99}, None, "'CD4 T' and 'CD8 T' are nearly proportional (cosine 0.990)"),
        ({"condition_number": 200.0}, None, "ill-conditioned (200)"),
        ({"platform_distance": 1.3}, None, "unusually far from the reference's (1.30)"),
        ({"types": types_with(recovery=[1.2, 0.16])}, None, "a part of their share: 'B' at 16%. Their profiles"),
        ({"factor_r2": 0.5}, None, "50% of the gene factor looks like differences between types"),
        ({"drift": 0.7}, None, "half the summed difference is 0.70), most in 'T'"),
        ({}, pd.concat([sample(unexplained=0.3)] * 3), "most of it in LYZ"),
    ],
)
def test_cohort(changes, rows, words):
    rows = pd.concat([sample()] * 3) if rows is None else rows
    (message,) = cohort_messages(summary(**changes), rows)
    assert words in message


def test_a_constant_answer_is_an_alarm():
    types = types_with(sd=[0.001, 0.002])
    (message,) = cohort_messages(summary(types=types), pd.concat([sample()] * 3))
    assert "no type varies by more than 0.0020" in message
    assert cohort_messages(summary(types=types), pd.concat([sample()] * 2)) == []  # two say nothing of spread


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (evaluation(0.15), "the cohort's mean has the smaller error (RMSE 0.100, here 0.150)"),
        (evaluation(0.05, nnls=0.04), "non-negative least squares has the smaller error"),
    ],
)
def test_a_baseline_that_is_nearer_to_the_truth_is_named(table, words):
    (message,) = evaluation_messages(table)
    assert words in message


def test_nothing_to_say():
    assert cohort_messages(summary(), pd.concat([sample()] * 3)) == []
    assert evaluation_messages(evaluation(0.05)) == []
