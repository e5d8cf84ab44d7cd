"""What holds for every solver: planted truths, invariances, samples that do not see each other, bad input."""

import inspect
import re

import numpy as np
import pytest
import torch

from hpvade import solvers
from hpvade.solvers import _dwls
from hpvade.solvers._iterate import close

SOLVERS = {
    "nnls": lambda y, s: close(solvers.nnls(y, s)),
    "rlr": solvers.rlr,
    "rlr bisquare": lambda y, s: solvers.rlr(y, s, loss="bisquare"),
    "dwls": lambda y, s: solvers.dwls(y, s, n_subsamples=20),
    "music": lambda y, s: solvers.music(y, s, (0.3 * s) ** 2, tolerance=1e-9),
    "hspe": solvers.hspe,
    "instaprism": lambda y, s: solvers.instaprism(y, s, n_iterations=4000, tolerance=1e-12),
    "robust": lambda y, s: solvers.robust(y, s, gene_factor=False, gene_weight=False).rna_proportions.double(),
}
FLOAT32 = {"robust"}


def problem(seed=0, n=7, n_genes=120, n_types=4, noise=0.0):
    """Fractions, signature with columns that sum to one, and their product, perhaps noisy."""
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1.5, (n_genes, 1)) * rng.lognormal(0, 1, (n_genes, n_types))
    signature /= signature.sum(axis=0)
    truth = rng.dirichlet(np.ones(n_types), n)
    bulk = truth @ signature.T * rng.lognormal(0, noise, (n, n_genes))
    return tuple(torch.from_numpy(x) for x in (truth, signature, bulk))


@pytest.fixture(params=SOLVERS)
def solver(request):
    return request.param


def tolerance(solver):
    return {"rtol": 0, "atol": 1e-4 if solver in FLOAT32 else 1e-7}


def test_noiseless_mixtures_are_recovered(solver):
    truth, signature, bulk = problem()
    np.testing.assert_allclose(SOLVERS[solver](bulk, signature), truth, rtol=0, atol=1e-4)


def test_a_pure_sample_is_pure(solver):
    _, signature, _ = problem()
    found = SOLVERS[solver](signature.T[[2]], signature)
    np.testing.assert_allclose(found, [[0, 0, 1, 0]], atol=1e-3)


def test_noisy_mixtures_have_small_errors_and_fractions_sum_to_one(solver):
    truth, signature, bulk = problem(noise=0.3, n=40)
    found = SOLVERS[solver](bulk, signature)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(dim=1), 1, atol=1e-6)
    rmse, constant = ((x - truth).square().mean().sqrt() for x in (found, truth.mean(dim=0)))
    assert rmse < 0.5 * constant


def test_a_factor_per_sample_changes_nothing(solver):
    _, signature, bulk = problem(noise=0.3)
    factor = torch.tensor([[1e-6], [1e-3], [1.0], [3.0], [50.0], [1e3], [1e6]])
    if solver == "robust":  # its offset is a share of the total, so that samples must be shares; `tl.solve` sees to it
        bulk = bulk / bulk.sum(dim=1, keepdim=True)
        factor = torch.ones_like(factor)
    found = SOLVERS[solver](bulk * factor, signature)
    np.testing.assert_allclose(found, SOLVERS[solver](bulk, signature), **tolerance(solver))


@pytest.mark.parametrize("name", sorted(SOLVERS.keys() - {"robust"}))
def test_a_factor_per_column_divides_that_amount(name):
    _, signature, bulk = problem(noise=0.3)
    size = torch.tensor([1e3, 2e3, 8e3, 5e2], dtype=torch.float64)
    expected = close(SOLVERS[name](bulk, signature) / size)
    np.testing.assert_allclose(SOLVERS[name](bulk, signature * size), expected, rtol=0, atol=1e-7)


def test_samples_alone_are_as_in_a_batch(solver):
    _, signature, bulk = problem(noise=0.5, n=5)
    batch = SOLVERS[solver](bulk, signature)
    alone = torch.cat([SOLVERS[solver](row[None], signature) for row in bulk])
    np.testing.assert_allclose(alone, batch, **tolerance(solver))


@pytest.mark.parametrize("name", ["rlr", "dwls", "hspe", "instaprism"])
def test_blocks_do_not_matter(name):
    _, signature, bulk = problem(noise=0.5)
    function = getattr(solvers, name)
    np.testing.assert_allclose(
        function(bulk, signature, block=3), function(bulk, signature, block=100), rtol=0, atol=1e-6
    )
    with pytest.raises(ValueError, match="block=0"):
        function(bulk, signature, block=0)


def test_the_order_of_genes_and_types_does_not_matter(solver, monkeypatch):
    _, signature, bulk = problem(noise=0.3)
    genes, types = torch.randperm(120, generator=torch.Generator().manual_seed(0)), torch.tensor([2, 0, 3, 1])
    expected = SOLVERS[solver](bulk, signature)[:, types]
    halves = _dwls._random_halves  # of DWLS, drawn by position: they go along with their genes
    monkeypatch.setattr(_dwls, "_random_halves", lambda n, n_genes: halves(n, n_genes)[:, genes])
    found = SOLVERS[solver](bulk[:, genes], signature[genes][:, types])
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-4 if solver in FLOAT32 else 1e-5)


def test_genes_without_expression_and_zero_reads_do_no_harm(solver):
    truth, signature, bulk = problem()
    signature, bulk = signature.clone(), bulk.clone()
    signature[:3], bulk[:, :3] = 0, 0  # nobody has them
    bulk[0, 5] = 0  # a dropout
    found = SOLVERS[solver](bulk, signature)
    assert found.isfinite().all()
    np.testing.assert_allclose(found[1:], truth[1:], atol=0.02)


def test_the_same_data_have_the_same_answer_whatever_the_seed(solver):
    _, signature, bulk = problem(noise=0.4)
    torch.manual_seed(1)
    first = SOLVERS[solver](bulk, signature)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(SOLVERS[solver](bulk, signature), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "a solver drew from the global generator"


def test_single_precision_and_arguments_unchanged(solver):
    _, signature, bulk = problem(noise=0.2)
    before = bulk.clone(), signature.clone()
    expected = SOLVERS[solver](bulk, signature)
    assert torch.equal(bulk, before[0]) and torch.equal(signature, before[1])
    np.testing.assert_allclose(SOLVERS[solver](bulk.float(), signature.float()), expected, rtol=0, atol=1e-3)


def test_shapes_that_do_not_match(solver):
    _, signature, bulk = problem()
    with pytest.raises(ValueError, match=r"expected \(samples x genes\) and \(genes x types\)"):
        SOLVERS[solver](bulk[:, 1:], signature)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same(solver):
    _, signature, bulk = problem(noise=0.3)
    found = SOLVERS[solver](bulk.cuda(), signature.cuda())
    assert found.device.type == "cuda"
    np.testing.assert_allclose(found.cpu(), SOLVERS[solver](bulk, signature), rtol=0, atol=1e-3)


OUT_OF_RANGE = [
    ({"n_iterations": 0}, "n_iterations=0; expected a whole number of at least 1"),
    ({"n_iterations": 2.5}, "n_iterations=2.5; expected a whole number"),
    ({"dispersion": 0.0}, "dispersion=0.0; expected a positive number"),
    ({"offset": -1e-5}, "offset=-1e-05; expected a number of at least 0"),
    ({"factor_samples": 0}, "factor_samples=0; expected a whole number"),
    ({"n_samples": 0}, "n_samples=0; expected a whole number"),
    ({"block": 0}, "block=0; expected a whole number"),
    ({"factor_penalty": -1.0}, "factor_penalty=-1.0; expected a number of at least 0"),
    ({"weight_samples": float("nan")}, "weight_samples=nan; expected a number of at least 0"),
    ({"anchor_weight": -1.0}, "anchor_weight=-1.0; expected a number of at least 0"),
]


def cohort_solvers():
    """Those that learn from a cohort, on a small problem, by name."""
    g = torch.Generator().manual_seed(0)
    signature = torch.rand(80, 3, generator=g) ** 4
    signature = signature / signature.sum(dim=0)
    bulk = torch.rand(8, 3, generator=g) @ signature.T
    even, fit = torch.full((8, 3), 1 / 3), solvers.robust_variable(bulk, signature, [2])
    return {
        solvers.robust: (bulk, signature),
        solvers.robust_variable: (bulk, signature, [2]),
        solvers.variable_profiles: (bulk, signature, fit, 2),
        solvers.platform_factor: (bulk, signature, even),
        solvers.unknown_component: (bulk, signature),
        solvers.covariate_factor: (bulk, signature, torch.rand(80, 1, generator=g)),
    }


@pytest.mark.parametrize(("option", "message"), OUT_OF_RANGE, ids=str)
def test_numbers_out_of_range_are_named(option, message):
    """Without this, no step or no weight is an answer of even parts."""
    asked = 0
    for solver, arguments in cohort_solvers().items():
        if option.keys() <= inspect.signature(solver).parameters.keys():
            asked += 1
            with pytest.raises(ValueError, match=re.escape(message)):
                solver(*arguments, **option)
    assert asked
