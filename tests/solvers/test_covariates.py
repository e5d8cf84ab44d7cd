"""The factor that gene covariates explain, against a planted span effect and one round written out in NumPy."""

import numpy as np
import pytest
import torch

from hpvade.solvers import covariate_factor, marker_genes, robust

FLOOR = 5e-5


def nuclei(seed=0, n=12, n_genes=1500, n_types=4, slope=-0.8, noise=0.3):
    """Nuclei whose first two types have long marker genes; bulk that sees a gene the less the longer it is."""
    rng = np.random.default_rng(seed)
    span = rng.normal(0, 1, n_genes)
    specific = rng.normal(0, 1, (n_genes, n_types)) + 0.8 * np.outer(span, [1, 1, -1, -1][:n_types])
    signature = np.exp(rng.normal(0, 1, (n_genes, 1)) + specific)
    signature /= signature.sum(axis=0)
    truth = rng.dirichlet(3 * np.ones(n_types), n)
    bulk = truth @ (signature * np.exp(slope * span + rng.normal(0, noise, n_genes))[:, None]).T
    bulk = bulk * rng.lognormal(0, 0.1, bulk.shape)
    bulk /= bulk.sum(axis=1, keepdims=True)
    return truth, *(torch.from_numpy(x) for x in (bulk, signature, span[:, None])), slope * span


def test_a_planted_slope_is_found_and_the_composition_is_freed_from_it():
    truth, bulk, signature, span, planted = nuclei()
    found = covariate_factor(bulk, signature, span)
    used = (signature.amax(dim=1) > FLOOR).numpy()
    assert np.corrcoef(found.gene_factor[used], planted[used])[0, 1] > 0.98
    assert np.abs(found.gene_factor.numpy() - planted + planted[used].mean())[used].mean() < 0.1
    assert found.explained == pytest.approx(
        0.64 / (0.64 + 0.09), abs=0.06
    )  # variances of the slope's part and the rest
    chosen = marker_genes(signature)
    error = [
        np.abs(robust(bulk[:, chosen], s[chosen], gene_factor=False).rna_proportions.numpy() - truth).mean()
        for s in (signature, signature * found.gene_factor.exp()[:, None])
    ]
    assert error[1] < 0.15 * error[0]


def test_one_round_is_least_squares_on_the_median_residuals():
    _, bulk, signature, span, _ = nuclei(n=5)
    chosen = marker_genes(signature, signature.amax(dim=1) > FLOOR)
    found = covariate_factor(bulk, signature, span, n_iterations=1)
    rna = robust(bulk[:, chosen], signature[chosen], gene_factor=False).rna_proportions.double().numpy()
    y, s, z = bulk.numpy(), signature.numpy(), span.numpy()[:, 0]
    used = s.max(axis=1) > FLOOR
    mean = rna @ s[used].T
    mean *= y[:, used].sum(axis=1, keepdims=True) / mean.sum(axis=1, keepdims=True)
    seen = np.sort(np.log(y[:, used] + FLOOR) - np.log(mean + FLOOR), axis=0)[2]  # the median of five
    z = (z - z.mean()) / z.std(ddof=1)
    basis = np.stack([np.ones_like(z), z, z**2, z.clip(0), (z - 1).clip(0)], axis=1)
    expected = basis @ np.linalg.lstsq(basis[used], seen, rcond=None)[0]
    np.testing.assert_allclose(found.gene_factor, expected - expected[used].mean(), atol=1e-3)
    assert found.explained == pytest.approx(1 - (seen - expected[used]).var() / seen.var(), abs=1e-3)


def test_covariates_that_say_nothing_explain_nothing():
    _, bulk, signature, span, _ = nuclei(slope=0.0)
    found = covariate_factor(bulk, signature, span)
    assert found.explained < 0.05
    assert found.gene_factor.abs().mean() < 0.1


def test_unit_of_a_covariate_does_not_matter_and_nan_is_the_median():
    _, bulk, signature, span, _ = nuclei(n_genes=1501)
    plain = covariate_factor(bulk, signature, span)
    torch.testing.assert_close(
        covariate_factor(bulk, signature, 3 + 7 * span).gene_factor, plain.gene_factor, atol=1e-4, rtol=0
    )
    lost, filled = span.clone(), span.clone()
    lost[:100] = torch.nan
    filled[:100] = span[100:].median()
    torch.testing.assert_close(
        covariate_factor(bulk, signature, lost).gene_factor, covariate_factor(bulk, signature, filled).gene_factor
    )


def test_a_covariate_of_two_values_gives_two_levels():
    truth, _, signature, _, _ = nuclei()
    coding = torch.arange(len(signature)) % 2
    bulk = torch.from_numpy(truth) @ (signature * torch.exp(0.7 * coding)[:, None]).T
    found = covariate_factor(bulk / bulk.sum(dim=1, keepdim=True), signature, coding[:, None]).gene_factor
    assert float(found[coding == 1].mean() - found[coding == 0].mean()) == pytest.approx(0.7, abs=0.05)
    assert found[coding == 1].std() < 1e-4


def test_genes_that_are_not_used_do_not_move_the_factor():
    _, bulk, signature, span, _ = nuclei()
    used = (signature.amax(dim=1) > FLOOR) & (torch.arange(len(signature)) % 3 > 0)
    chosen = marker_genes(signature, used)
    spoilt = bulk.clone()
    spoilt[:, ~used] = 0
    found, expected = (covariate_factor(x, signature, span, markers=chosen, used=used) for x in (spoilt, bulk))
    torch.testing.assert_close(found.gene_factor, expected.gene_factor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"covariates": torch.ones(5, 1)}, r"covariates have shape \(5, 1\)"),
        ({"covariates": torch.ones(1500, 1)}, "covariate 0 is constant"),
        ({"covariates": torch.full((1500, 1), torch.nan)}, "covariate 0 is constant or unknown"),
        ({"used": torch.arange(1500) < 20}, "20 genes reach the offset"),
        ({"bulk": torch.ones(3, 7)}, "bulk has shape"),
    ],
)
def test_bad_input_is_refused(change, message):
    _, bulk, signature, span, _ = nuclei()
    arguments = {"bulk": bulk, "signature": signature, "covariates": span} | change
    options = {"used": arguments.pop("used")} if "used" in arguments else {}
    with pytest.raises(ValueError, match=message):
        covariate_factor(*arguments.values(), **options)
