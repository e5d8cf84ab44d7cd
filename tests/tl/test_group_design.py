import numpy as np
import pandas as pd
import pytest

from hpvade.tl._group_design import design

OBS = pd.DataFrame(
    {
        "group": ["b", "a", "b", "a", "c", "c", "a", "b"],
        "sex": ["f", "m"] * 4,
        "age": [30, 40, 50, 60, 70, 80, 90, 20.0],
        "site": ["x", "y", "x", "y", "z", "z", "y", "x"],
        "one": 1,
        "hole": ["a", "b", None, "a", "b", "a", None, "b"],
        "lonely": ["a", "b", "a", "a", "b", "a", "z", "b"],
        "patient": ["p1", "p1", "p2", "p2", "p3", "p4", "p4", "p3"],
        "own": ["q1", "q2", "q1", "q2", "q3", "q3", "q2", "q1"],
    },
    index=[f"s{i}" for i in range(8)],
)

DEFAULTS = {"groupby": "group", "covariates": [], "paired": None, "reference": None, "mixed": False}


def test_columns_are_the_groups_but_the_reference_then_the_covariates():
    found = design(OBS, "group", ["sex", "age"], None, None, False)
    assert (found.reference, found.others) == ("a", ["b", "c"])
    np.testing.assert_array_equal(found.matrix[:, 1], OBS["group"] == "b")
    np.testing.assert_array_equal(found.matrix[:, 2], OBS["group"] == "c")
    np.testing.assert_array_equal(found.matrix[:, 3], OBS["sex"] == "m")
    np.testing.assert_allclose(found.matrix[:, 4], (OBS["age"] - 55) / OBS["age"].std(ddof=0))


def test_the_order_of_categories_names_the_reference():
    obs = OBS.assign(group=pd.Categorical(OBS["group"], ["unused", "c", "b", "a"]))
    found = design(obs, "group", [], None, None, False)
    assert (found.reference, found.others) == ("c", ["b", "a"])
    assert design(obs, "group", [], None, "b", False).others == ["c", "a"]


def test_numbers_and_booleans_are_groups_too():
    assert design(OBS.assign(group=[1, 2] * 4), "group", [], None, None, False).reference == "1"
    assert design(OBS.assign(group=[True, False] * 4), "group", [], None, None, False).others == ["True"]


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"groupby": "none"}, KeyError, "no column 'none'"),
        ({"groupby": "one"}, ValueError, "one group, 1"),
        ({"groupby": "lonely"}, ValueError, "z of .* one sample"),
        ({"groupby": "hole"}, ValueError, r"missing \(NaN\) for 2 samples: s2, s6.*notna"),
        ({"covariates": ["hole"]}, ValueError, "'hole'.*missing"),
        ({"covariates": ["one"]}, ValueError, "'one' is the same in all samples"),
        ({"covariates": ["site"]}, ValueError, "confounded with site"),
        ({"covariates": ["group"]}, ValueError, "used twice"),
        ({"reference": "d"}, ValueError, "reference='d' is no group.*a, b, c"),
        ({"paired": "own"}, ValueError, "no subject of 'own'.*method='mixed'"),
        ({"paired": "own", "mixed": True, "groupby": "sex", "covariates": ["age", "own"]}, ValueError, "used twice"),
        ({"paired": "one", "mixed": True}, ValueError, "1 subjects for 8 samples"),
        ({"covariates": ["id"]}, ValueError, "confounded|nothing is left"),
        ({"covariates": ["sex", "inverse"]}, ValueError, "confounded with the covariates together"),
    ],
)
def test_what_cannot_be_judged_is_refused(options, error, reason):
    obs = OBS.assign(id=list("stuvwxyz"))
    # each covariate alone has both values in each group; together they name it
    obs["sex"] = ["f", "m", "m", "f", "f", "m", "m", "f"]
    obs["half"] = ["x", "x", "y", "y", "x", "y", "x", "y"]
    if "inverse" in options.get("covariates", ()):
        obs["half"] = ["a", "a", "b", "b"] * 2
        obs["sex"], obs["inverse"] = [0.0, 1, 2, 3, 4, 5, 6, 7], [0.0, 1, 2, 3, 5, 6, 7, 8]
        options = options | {"groupby": "late"}
        obs["late"] = ["a"] * 4 + ["b"] * 4
    with pytest.raises(error, match=reason):
        design(obs, **DEFAULTS | options)


def test_random_subjects_are_no_columns():
    found = design(OBS, "group", [], "patient", None, True)
    assert found.matrix.shape == (8, 3)
    assert list(found.subjects) == list(OBS["patient"])
    assert design(OBS, "group", [], "patient", None, False).matrix.shape == (8, 6)
