"""Covariates by purpose: fan-out, exclusion, nesting."""

import numpy as np
import pandas as pd
import pytest

from hpvade.models.ambient._covariates import check_keys, check_nesting, resolve_keys

PURPOSES = {"ambient_covariate_keys": ["a"], "dispersion_key": "d", "library_size_key": "l"}


def test_rv_01_batch_serves_all_three_purposes():
    keys = resolve_keys(batch_key="b")
    assert (keys.batch, keys.ambient, keys.dispersion, keys.library, keys.batch_is_group) == (
        "b",
        ["b"],
        "b",
        "b",
        True,
    )
    assert resolve_keys(library_key="b") == keys == resolve_keys(batch_key="b", library_key="b")
    keys = resolve_keys(**PURPOSES)
    assert (keys.batch, keys.ambient, keys.dispersion, keys.library, keys.batch_is_group) == (
        None,
        ["a"],
        "d",
        "l",
        False,
    )


@pytest.mark.parametrize("purpose", PURPOSES)
def test_rv_01_batch_excludes_purpose_keys_and_each_needs_a_source(purpose):
    with pytest.raises(ValueError, match=f"batch_key cannot be combined with {purpose}"):
        resolve_keys(batch_key="b", **{purpose: PURPOSES[purpose]})
    with pytest.raises(ValueError, match=f"library_key cannot be combined with {purpose}"):
        resolve_keys(library_key="b", **{purpose: PURPOSES[purpose]})
    with pytest.raises(ValueError, match=f"Either batch_key or {purpose} must be given"):
        resolve_keys(**{key: value for key, value in PURPOSES.items() if key != purpose})


def test_rv_01_scaling_defaults_to_conditioning():
    assert resolve_keys(batch_key="b", nn_conditioning_covariate_keys=["x", "y"]).scaling == ["x", "y"]
    given = resolve_keys(batch_key="b", nn_conditioning_covariate_keys=["x"], feature_scaling_covariate_keys=["y"])
    assert (given.conditioning, given.scaling) == (["x"], ["y"])
    assert (
        resolve_keys(batch_key="b", nn_conditioning_covariate_keys=["x"], feature_scaling_covariate_keys=[]).scaling
        == []
    )


@pytest.mark.parametrize("value", [["x"], None, []], ids=str)
def test_rv_01_any_encoder_keys_warn(value):
    with pytest.warns(UserWarning, match="encoder_covariate_keys"):
        assert resolve_keys(batch_key="b", encoder_covariate_keys=value).encoder == (value or [])


def test_two_names_of_the_batch_that_differ_are_refused():
    with pytest.raises(ValueError, match="two names of one thing"):
        resolve_keys(batch_key="a", library_key="b")


def test_a_string_for_a_list_is_refused():
    with pytest.raises(TypeError, match="nn_conditioning_covariate_keys='site'; expected a list"):
        resolve_keys(batch_key="b", nn_conditioning_covariate_keys="site")


@pytest.fixture
def obs():
    values = {"b": ["x", "y", "x"], "n": [1.0, 2.0, 3.0], "gap": ["x", None, "y"], "zero": [1.0, 0.0, 2.0]}
    return pd.DataFrame(values, index=["c0", "c1", "c2"])


def test_rv_27_absent_columns_and_missing_values(obs):
    check_keys(obs, resolve_keys(batch_key="b", nn_continuous_covariate_keys=["n"]))
    with pytest.raises(KeyError, match="batch_key='q' is not a column"):
        check_keys(obs, resolve_keys(batch_key="q"))
    with pytest.raises(ValueError, match=r"obs\['gap'\] is missing .* for 1 of 3 cells"):
        check_keys(obs, resolve_keys(batch_key="gap"))
    with pytest.raises(ValueError, match="nn_continuous_covariate_keys='b': 3 of 3 values"):
        check_keys(obs, resolve_keys(batch_key="b", nn_continuous_covariate_keys=["b"]))
    with pytest.raises(ValueError, match="size_factor_key='zero': 1 of 3 .* 'c1'; expected positive"):
        check_keys(obs, resolve_keys(batch_key="b"), size_factor_key="zero")


def test_rv_22_a_library_in_two_data_sets_is_refused_and_missing_keys_are_not():
    obs = pd.DataFrame({"lib": ["a", "a", "b", "c"], "set": ["x", "y", "y", np.nan]})
    with pytest.raises(
        ValueError, match=r"1 libraries of 'lib' lie in more than one data set of 'set': 'a' in \['x', 'y'\]"
    ):
        check_nesting(obs, "lib", "set")
    check_nesting(obs.iloc[1:], "lib", "set")
    check_nesting(obs, "lib")
    with pytest.raises(KeyError, match="technical_covariate_keys='q'"):
        check_nesting(obs, "lib", None, ["q"])
    with pytest.raises(ValueError, match="needs library_key"):
        check_nesting(obs, None, "set")
