"""Inference, loss and sampling (spec 3.3 to 3.5)."""

import math

import pytest
import torch
from scvi.distributions import NegativeBinomial
from torch.distributions import Gamma, Normal, kl_divergence

from hpvade.models.ambient._module import RegularizedVAE
from hpvade.models.ambient._options import ambient_options
from hpvade.models.ambient._shared_module import Layout

LAYOUT = Layout({"rna": 20}, n_obs=200, n_batch=2, ambient=(2,), dispersion=2, library=2)


def module(**options):
    torch.manual_seed(0)
    return RegularizedVAE(LAYOUT, ambient_options({"n_hidden": 8, "n_latent": 3} | options))


def batch(n=16):
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 2, (n, 1), generator=generator).float()
    keys = ("batch", "ambient_covs", "dispersion_cov", "library_size_cov")
    return {"X": torch.poisson(torch.full((n, 20), 3.0), generator=generator)} | dict.fromkeys(keys, codes)


def losses(m, tensors, **kwargs):
    torch.manual_seed(5)
    inferred = m.inference(**m._get_inference_input(tensors))
    generated = m.generative(**m._get_generative_input(tensors, inferred))
    return inferred, generated, m.loss(tensors, inferred, generated, **kwargs)


def test_loss_is_the_sum_of_its_parts():
    m, tensors = module(), batch()
    inferred, generated, found = losses(m, tensors, kl_weight=0.3, n_obs=500)
    recon = -generated["px"].log_prob(tensors["X"]).sum(1)
    kl_z = kl_divergence(inferred["qz"], Normal(0.0, 1.0)).sum(1)
    kl_l = kl_divergence(inferred["ql"], generated["pl"]).sum(1)
    shared = sum(m.global_terms().values())
    torch.testing.assert_close(found.loss, (recon + 0.3 * kl_z + kl_l).mean() + shared / 500)
    torch.testing.assert_close(found.reconstruction_loss["reconstruction_loss"], recon)
    torch.testing.assert_close(found.kl_global_sum, shared)


def test_rv_03_priors_scale_with_one_over_n_obs_and_small_n_obs_is_refused():
    m, tensors = module(), batch()
    shared = sum(m.global_terms().values()).item()
    by_size = {n: losses(m, tensors, n_obs=n)[2].loss.item() for n in (100, 400)}
    assert by_size[100] - by_size[400] == pytest.approx(shared * (1 / 100 - 1 / 400), rel=1e-3)
    with pytest.raises(AssertionError, match="n_obs=1 is smaller than the minibatch of 16 cells"):
        losses(m, tensors)
    assert losses(m, tensors, skip_n_obs_check=True)[2].loss.isfinite()


def test_rv_03_forward_injects_the_stored_training_size():
    m, tensors = module().eval(), batch()
    m.n_obs_training.fill_(7)  # below the minibatch: the check is skipped for this call
    torch.manual_seed(3)
    found = m(tensors)[2].loss
    torch.manual_seed(3)
    expected = m(tensors, loss_kwargs={"n_obs": 7, "skip_n_obs_check": True})[2].loss
    torch.testing.assert_close(found, expected)
    with pytest.raises(AssertionError, match="n_obs"):
        m(tensors, loss_kwargs={"n_obs": 3})


def test_rv_03_prior_weight_per_epoch_does_not_depend_on_the_batch_size():
    """Per step the priors weigh 1/n_obs of a mean over cells: n/B steps of weight B/n each."""
    m, tensors = module(), batch(32)
    shared = sum(m.global_terms().values()).item()
    for size in (8, 16):
        total = 0.0
        for start in range(0, 32, size):
            part = {key: value[start : start + size] for key, value in tensors.items()}
            inferred, generated, found = losses(m, part, n_obs=32)
            local = found.reconstruction_loss_sum + found.kl_local_sum
            total += (found.loss * size - local).item()
        assert total == pytest.approx(shared, rel=1e-2)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"z_sparsity_prior": "gamma"}, lambda i, g: -Gamma(20 / 3, 1.0).log_prob(i["z"].abs()).sum(1).mean()),
        (
            {"hidden_activation_sparsity": True},
            lambda i, g: -Gamma(40 / 8, 1.0).log_prob(g["hidden"].clamp(min=1e-6)).sum(1).mean(),
        ),
    ],
    ids=["latent", "hidden"],
)
def test_rv_26_local_penalties_change_the_loss_by_their_formula(option, expected):
    tensors = batch()
    plain, penalised = module(), module(**option)
    base = losses(plain, tensors, kl_weight=0.5, n_obs=200)[2].loss
    inferred, generated, found = losses(penalised, tensors, kl_weight=0.5, n_obs=200)
    torch.testing.assert_close(found.loss - base, 0.5 * expected(inferred, generated), rtol=1e-3, atol=1e-2)


def test_rv_26_without_the_latent_divergence():
    tensors = batch()
    inferred, _, with_kl = losses(module(), tensors, n_obs=200)
    without = losses(module(use_kl_z=False), tensors, n_obs=200)[2].loss
    kl = kl_divergence(inferred["qz"], Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(with_kl.loss - without, kl, rtol=1e-3, atol=1e-3)


def test_rv_18_metrics():
    m, tensors = module(compute_pearson=True), batch()
    inferred, generated, found = losses(m, tensors, n_obs=200)
    metrics = found.extra_metrics
    assert metrics.keys() == {
        *("z_var", "n_active_dims", "theta_mean", "dispersion_kl", "decoder_weight_penalty", "library_obs_w"),
        *("pearson_gene", "pearson_cell"),
    }
    assert all(value.ndim == 0 for value in metrics.values())
    kl = kl_divergence(inferred["qz"], Normal(0.0, 1.0)).mean(0)
    assert metrics["n_active_dims"] == (kl > 0.01).sum()
    x, rate = tensors["X"], generated["px"].mu
    shares = [t / t.sum(1, keepdim=True) for t in (x, rate)]
    rows = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*shares, strict=True)]
    torch.testing.assert_close(metrics["pearson_cell"], torch.stack(rows).mean())
    columns = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(shares[0].T, shares[1].T, strict=True)]
    torch.testing.assert_close(metrics["pearson_gene"], torch.stack(columns).mean())
    assert not {"pearson_gene"} & losses(module(), tensors, n_obs=200)[2].extra_metrics.keys()


def test_rv_10_likelihood_is_the_negative_binomial():
    tensors = batch()
    gamma_poisson = losses(module(), tensors, n_obs=200)[2].loss
    torch.testing.assert_close(gamma_poisson, losses(module(gene_likelihood="nb"), tensors, n_obs=200)[2].loss)
    m = module()
    mu, theta = torch.rand(16, 20) + 0.5, torch.rand(16, 20) + 0.5
    px = NegativeBinomial(mu=mu, theta=theta)
    expected = torch.distributions.NegativeBinomial(theta, logits=(mu / theta).log()).log_prob(tensors["X"]).sum(1)
    torch.testing.assert_close(m.log_likelihood(px, tensors["X"]), expected, rtol=1e-4, atol=1e-3)


def test_samples_have_a_leading_axis():
    m, tensors = module().eval(), batch()
    inferred = m.inference(**m._get_inference_input(tensors), n_samples=5)
    assert inferred["z"].shape == (5, 16, 3) and inferred["library"].shape == (5, 16, 1)
    assert m.sample(tensors).shape == (16, 20) and m.sample(tensors, n_samples=4).shape == (16, 20, 4)


def test_marginal_likelihood_is_exact_when_nothing_depends_on_the_latent_variables():
    """With decoder weights at zero and posteriors equal to the priors, p(x) is an integral over the library."""
    m, tensors = module(residual_library_encoder=False).eval(), batch(4)
    with torch.no_grad():
        for weight in m.decoder.weights():
            weight.zero_()
        m.decoder.px_scale_decoder[0].bias.fill_(3.0)
        m.library_log_vars.fill_(0.09)
        for encoder, variance in ((m.l_encoder, 0.09), (m.z_encoder, 1.0)):
            for head in (encoder.mean_encoder, encoder.var_encoder):
                head.weight.zero_(), head.bias.zero_()
            encoder.var_encoder.bias.fill_(math.log(variance - 1e-4))
    torch.manual_seed(0)
    found = m.marginal_ll(tensors, n_mc_samples=4000, n_mc_samples_per_pass=500)
    covs = m.read_covariates(tensors)
    grid = torch.linspace(-1.5, 1.5, 601)
    values = []
    for point in grid:
        px = m.generative(torch.zeros(4, 3), point.expand(4, 1), covs)["px"]
        values.append(px.log_prob(tensors["X"]).sum(1) + Normal(0.0, 0.3).log_prob(point))
    exact = torch.stack(values).logsumexp(0) + math.log(grid[1] - grid[0])
    torch.testing.assert_close(found, exact, rtol=0, atol=0.1)
