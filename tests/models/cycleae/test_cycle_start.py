"""Where CycleAE's networks start: exact without training on planted cells, non-negative factors against NumPy."""

import numpy as np
import torch

from hpvade.models.cycleae._cycle_start import _added, _multiply, nonnegative_factors, row_space, singular_vectors
from hpvade.nn.cycleae import CAE


def test_start_from_data_reconstructs_and_shifts_exactly():
    """Cells of rank three plus orthogonal effects: reconstruction and translation are right without any training."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(np.c_[np.ones(40), rng.normal(size=(40, 6))])[0].T
    effects = {"a": np.outer([-1, 1], basis[4]), "b": rng.normal(size=(3, 2)) @ basis[5:7]}
    effects["b"] -= effects["b"].mean(axis=0)
    codes = {"a": rng.integers(2, size=80), "b": rng.integers(3, size=80)}
    x = rng.normal(size=(80, 3)) @ basis[1:4] + 0.5  # all cells have one size
    x = x + sum(e[codes[f]] for f, e in effects.items())
    x = torch.tensor(x, dtype=torch.float32)
    source = {f: torch.tensor(c) for f, c in codes.items()}
    target = {"a": 1 - source["a"], "b": source["b"]}
    model = CAE(
        40, 12, {"a": {"cardinality": 2, "using": True}, "b": {"cardinality": 3, "using": True}}, nonnegative=False
    )
    model.start_from(x, source, {f: torch.tensor(e, dtype=torch.float32) for f, e in effects.items()})
    same, moved = model(x, source, source), model(x, source, target)
    assert (same["X_st"] - x).abs().max() < 0.05
    change = torch.tensor(effects["a"][1 - codes["a"]] - effects["a"][codes["a"]], dtype=torch.float32)
    found = moved["X_st"] - same["X_st"]
    assert np.corrcoef(found.detach().ravel(), change.ravel())[0, 1] > 0.999


def test_singular_vectors_and_row_space_equal_numpy():
    x = np.random.default_rng(0).normal(size=(30, 4)) @ np.random.default_rng(1).normal(size=(4, 12))
    _, _, v = np.linalg.svd(x)
    for found in (singular_vectors(torch.tensor(x), 3), row_space(torch.tensor(x))):
        k = len(found)
        assert k == (3 if found.shape[0] == 3 else 4)
        np.testing.assert_allclose((found.T @ found).numpy(), v[:k].T @ v[:k], atol=1e-6)
    assert len(singular_vectors(torch.tensor(x), 9)) == 4, "only as many as there are"


def test_multiplicative_steps_follow_the_formula_and_never_raise_the_error():
    rng = np.random.default_rng(0)
    x, added, w = rng.gamma(1, size=(40, 10)), 0.3 * rng.random((40, 10)), rng.random((3, 10))
    raises = 2 * w @ x.T @ x
    lowers = w @ x.T @ x @ w.T @ w + w @ w.T @ w @ x.T @ x + w @ (x.T @ added + added.T @ x)
    found = _multiply(*map(torch.tensor, (x, added, w)), 1)
    np.testing.assert_allclose(found, w * np.sqrt(raises / lowers), rtol=1e-6)
    gradient = torch.tensor(w, requires_grad=True)
    x, added = torch.tensor(x), torch.tensor(added)
    ((x @ gradient.T) @ gradient + added - x).square().sum().div(2).backward()
    np.testing.assert_allclose(gradient.grad, lowers - raises, rtol=1e-6)
    weight, errors = torch.tensor(w), []
    for _ in range(40):
        weight = _multiply(x, added, weight, 1)
        errors.append(float(((x @ weight.T) @ weight + added - x).square().mean()))
    assert errors[-1] < errors[0] and max(np.diff(errors)) < 1e-3 * errors[0]


def test_nonnegative_factors_keep_single_noisy_genes_and_groups_of_correlated_ones():
    """Two programmes of ten genes each, and four genes that vary on their own."""
    rng = np.random.default_rng(0)
    x = rng.gamma(2, size=(200, 2)) @ np.kron(np.eye(2), np.ones(10))
    x = np.c_[x, rng.gamma(2, size=(200, 4)) * 2].astype(np.float32)
    torch.manual_seed(0)
    weight = nonnegative_factors(torch.tensor(x), torch.zeros(200, 24), 6)
    assert weight.shape == (6, 24) and (weight >= 0).all()
    error = ((torch.tensor(x) @ weight.T) @ weight - torch.tensor(x)).square().mean()
    assert error < 0.05 * x.var(axis=0).mean(), "nearly all of it, with six of 24 numbers"


def test_nonnegative_start_leaves_to_the_base_what_the_heads_do_not_add():
    """The planted effect of each category lies on top of programmes of genes: the start reconstructs both."""
    rng = np.random.default_rng(0)
    codes = rng.integers(3, size=300)
    effect = 2 * rng.random((3, 24)) * (rng.random(24) < 0.5)
    x = rng.gamma(4, size=(300, 3)) @ np.kron(np.eye(3), np.ones(8)) / 4 + 1 + effect[codes]
    x, source = torch.tensor(x, dtype=torch.float32), {"a": torch.tensor(codes)}
    effects = {"a": torch.tensor(effect - effect.mean(axis=0), dtype=torch.float32)}
    torch.manual_seed(0)
    model = CAE(24, 12, {"a": {"cardinality": 3, "using": True}})
    model.start_from(x, source, effects)
    assert all((p >= 0).all() for name, p in model.named_parameters() if not name.endswith("log_scale"))
    parts = model(x, source, source)["head_logits"]
    np.testing.assert_allclose(parts["a"].detach(), _added(x, source, effects), atol=0.1)
    error = (sum(parts.values()) - x).square().mean()
    same_for_all = _added(x, source, effects).mean(dim=0).expand_as(x)
    base = nonnegative_factors(x, same_for_all, 12)
    assert error < 0.95 * ((x @ base.T) @ base + parts["a"] - x).square().mean(), "effects counted twice"
