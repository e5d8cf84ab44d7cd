"""Solvers on tensors: fractions whatever the scale and shape, or a ValueError that says what was expected."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, seed
from hypothesis import strategies as st
from property_inputs import COUNTS, refuse

from hpvade import solvers
from hpvade.solvers._iterate import close


def as_shares(y, s):
    """What these solvers expect: shares of each sample's and each type's total."""
    return y / y.sum(dim=1, keepdim=True).clamp_min(1e-300), s / s.sum(dim=0).clamp_min(1e-300)


MIX = {
    "nnls": lambda y, s: close(solvers.nnls(y, s)),
    "rlr": solvers.rlr,
    "dwls": lambda y, s: solvers.dwls(y, s, n_subsamples=4),
    "music": lambda y, s: solvers.music(y, s, (0.3 * s) ** 2),
    "hspe": solvers.hspe,
    "instaprism": solvers.instaprism,
    "robust": lambda y, s: solvers.robust(*as_shares(y, s)).rna_proportions,
    "robust_variable": lambda y, s: solvers.robust_variable(*as_shares(y, s), [s.shape[1] - 1]).rna_proportions,
    "unknown_component": lambda y, s: solvers.unknown_component(*as_shares(y, s)).rna_proportions,
    "coordinate_descent": lambda y, s: close(solvers.coordinate_descent(s.T @ s, y @ s)),
}


def profiles_of_the_first(y, s):
    y, s = as_shares(y, s)
    return solvers.variable_profiles(y, s, solvers.robust_variable(y, s, [0]), 0)


OTHER = {
    "variable_profiles": profiles_of_the_first,
    "marker_genes": lambda y, s: solvers.marker_genes(s).double(),
    "platform_factor": lambda y, s: solvers.platform_factor(y, s, torch.full((len(y), s.shape[1]), 1 / s.shape[1])),
    "covariate_factor": lambda y, s: solvers.covariate_factor(y, s, torch.arange(len(s), dtype=s.dtype)[:, None]),
}
NOT_CALLED = {"PlatformFactor", "CovariateFactor", "RobustFit", "UnknownFit", "MIN_SAMPLES"}
NOT_CALLED |= {"VariableFit", "VariableProfiles"}


@st.composite
def problems(draw):
    """Shares of bulk (n, G) and a signature (G, k), with a fault of shape or structure now and then."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    n, genes, k = draw(st.integers(1, 9)), draw(st.integers(1, 80)), draw(st.integers(1, 6))
    s = rng.lognormal(0, 1.5, (genes, 1)) * rng.lognormal(0, 1, (genes, k))
    s /= s.sum(axis=0)
    w = rng.dirichlet(np.ones(k) * draw(st.sampled_from([0.1, 1.0, 100.0])), n)
    y = w @ s.T * rng.lognormal(0, draw(st.sampled_from([0.0, 0.3, 2.0])), (n, genes))
    fault = draw(st.sampled_from(["", "", "", "twins", "a type without genes", "zeros", "one gene", "tiny", "huge"]))
    if fault == "twins" and k > 1:
        s[:, 1] = s[:, 0]
    elif fault == "a type without genes" and k > 1:
        s[:, 0] = 0
    elif fault == "zeros":
        y[0] = 0
    elif fault == "one gene":
        y[:, 1:] = 0
    scale = {"tiny": 1e-12, "huge": 1e12}.get(fault, 1.0)
    return torch.from_numpy(y * scale), torch.from_numpy(s * scale), fault


def attempt(function, y, s, name):
    before = y.clone(), s.clone()
    try:
        found = function(y, s)
    except Exception as error:  # noqa: BLE001
        refuse(error, name)
        found = None
    COUNTS["answered" if found is not None else "refused"] += 1
    assert y.equal(before[0]) and s.equal(before[1]), f"{name} changed its input"
    return found


@pytest.mark.parametrize("name", MIX)
def test_fractions(name):
    @seed(zlib.crc32(name.encode()))
    @given(problems())
    def check(problem):
        y, s, fault = problem
        found = attempt(MIX[name], y, s, name)
        if found is not None:
            assert found.shape == (len(y), s.shape[1]) and torch.isfinite(found).all(), fault
            assert (found >= 0).all() and (found.sum(dim=1) <= 1 + 1e-5).all(), fault

    check()


@pytest.mark.parametrize("name", OTHER)
def test_others(name):
    @seed(zlib.crc32(name.encode()))
    @given(problems())
    def check(problem):
        y, s, _ = problem
        found = attempt(OTHER[name], y, s, name)
        for value in vars(found).values() if hasattr(found, "__dict__") and not torch.is_tensor(found) else [found]:
            assert not torch.is_tensor(value) or not torch.isinf(value).any()
        if name == "variable_profiles" and found is not None:
            for value in vars(found).values():
                assert value.shape == y.shape and not value.isnan().any()
            assert (found.ratio >= 0).all() and (found.resolved >= 0).all() and (found.resolved <= 1).all()

    check()


def test_every_solver_is_here():
    assert set(solvers.__all__) - NOT_CALLED == set(MIX) | set(OTHER)
