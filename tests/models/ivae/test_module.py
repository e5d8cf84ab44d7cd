"""Loss terms and tensors: IV-02, IV-04, IV-05, IV-10, IV-11, IV-13."""

import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus

from hpvade.models.ivae._disentanglement import dip, total_correlation
from hpvade.models.ivae._module import IVAEModule

G, B = 40, 12
SIZES = {"n_hidden": 16, "n_latent": 4, "n_bottleneck": 2}


def batch(n=B, **more):
    generator = torch.Generator().manual_seed(1)
    x = torch.poisson(2 * torch.rand(n, G, generator=generator), generator=generator)
    return {"X": x, "batch": torch.zeros(n, 1), **more}


def module(**options):
    torch.manual_seed(0)
    return IVAEModule(G, **SIZES | options)


def losses(net, tensors, **kwargs):
    return net(tensors, loss_kwargs=kwargs)


def test_iv_02_kl_equals_torch():
    net, tensors = module().eval(), batch()
    _, _, found = losses(net, tensors)
    raw = net.vae.encoder.nn(torch.log1p(tensors["X"]))
    q = Normal(raw[:, :4], softplus(raw[:, 4:]) + 1e-6)
    expected = kl_divergence(q, Normal(torch.zeros(4), torch.ones(4))).sum(dim=1)
    torch.testing.assert_close(found.kl_local["kl_local"], expected, rtol=1e-6, atol=1e-6)
    assert found.extra_metrics["kl"].item() == pytest.approx(expected.mean().item(), rel=1e-6)


@pytest.mark.parametrize("size_factor", [None, torch.full((B, 1), 70.0)])
def test_iv_04_likelihood_of_raw_counts_and_log1p_for_the_encoder(size_factor):
    net, tensors = module().eval(), batch()
    if size_factor is not None:
        tensors["size_factor"] = size_factor
    seen = []
    net.vae.encoder.nn.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    inferred, generated, found = losses(net, tensors)
    torch.testing.assert_close(seen[0], torch.log1p(tensors["X"]))
    x = tensors["X"].double()
    library = x.sum(dim=1, keepdim=True) if size_factor is None else size_factor.double()
    theta = net.vae.decoder.disp.detach().double().exp()

    def minus_log_likelihood(z):
        mu = net.vae.decoder(z).detach().double() * library
        return -nbinom.logpmf(x, theta, theta / (theta + mu)).sum(axis=1)

    z = inferred["z"]
    expected = minus_log_likelihood(z)
    np.testing.assert_allclose(found.reconstruction_loss["reconstruction_loss"].detach(), expected, rtol=1e-5)
    assert found.extra_metrics["reconstruction"].item() == pytest.approx(expected.mean(), rel=1e-5)
    through = minus_log_likelihood(net.vae.latent_decoder(net.vae.latent_encoder(z)))
    assert found.extra_metrics["irecon"].item() == pytest.approx(through.mean(), rel=1e-5)


def test_iv_05_bottleneck_has_gradients_by_default_and_none_without_irecon():
    for irecon in (1.0, 0.0):
        net = module(irecon=irecon).train()
        losses(net, batch())[2].loss.backward()
        for layer in (net.vae.latent_encoder, net.vae.latent_decoder):
            if irecon:
                assert layer.weight.grad.abs().sum() > 0
            else:
                assert layer.weight.grad is None


WEIGHTS = {"irecon": 0.7, "beta": 2.0, "dip": 0.3, "tc": 0.5, "info": 4.0}


def test_iv_10_total_is_the_weighted_sum():
    net = module(**WEIGHTS).train()
    inferred, _, found = losses(net, batch(), kl_weight=0.25, n_obs=1000)
    terms = {name: value.item() for name, value in found.extra_metrics.items()}
    assert list(terms) == ["reconstruction", "irecon", "kl", "dip", "tc", "info"]
    weights = {"reconstruction": 1.0, "kl": 2.0 * 0.25, "irecon": 0.7, "dip": 0.3, "tc": 0.5, "info": 4.0}
    assert found.loss.item() == pytest.approx(sum(weights[name] * terms[name] for name in terms), rel=1e-5)
    qz = inferred["qz"]
    assert terms["dip"] == pytest.approx(dip(qz.loc, qz.scale).item(), rel=1e-5)
    assert terms["tc"] == pytest.approx(total_correlation(inferred["z"], qz.loc, qz.scale, 1000).item(), rel=1e-4)


@pytest.mark.parametrize("name", list(WEIGHTS))
def test_iv_10_a_weight_of_zero_removes_its_term(name):
    """Loss and every gradient are those of a module whose term counts for nothing."""
    net = module(**WEIGHTS | {name: 0.0}).train()
    term = {"beta": "kl"}.get(name, name)
    torch.manual_seed(3)
    _, _, found = losses(net, batch())
    weights = {"reconstruction": 1.0} | {{"beta": "kl"}.get(key, key): value for key, value in WEIGHTS.items()}
    rest = sum(weights[key] * value for key, value in found.extra_metrics.items() if key != term)
    assert found.loss.item() == pytest.approx(rest.item(), rel=1e-6)
    assert (term in found.extra_metrics) == (name != "irecon")


def test_a_penalty_of_weight_zero_leaves_no_gradient():
    """Only the KL and the penalties move the raw scales beside the reconstruction: compare gradients."""
    grads = []
    for weight in (0.0, 1e-30):
        net = module(tc=weight, dip=weight, info=weight).train()
        torch.manual_seed(3)
        losses(net, batch())[2].loss.backward()
        grads.append(net.vae.encoder.nn[-1].weight.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_iv_11_loadings_equal_finite_differences():
    net = module(n_batch=3).double().eval()
    tensors = batch(batch=torch.arange(B).unsqueeze(1) % 3)
    tensors["X"] = tensors["X"].double()
    found = net.loadings(tensors) / B
    code = net.vae.latent_encoder(net.inference(tensors["X"])["qz"].loc).detach()
    covariates = torch.eye(3, dtype=torch.double)[torch.arange(B) % 3]
    for axis in range(2):
        step = torch.zeros(2, dtype=torch.double)
        step[axis] = 1e-5
        up, down = (net.vae.decode(net.vae.latent_decoder(code + s), covariates).log() for s in (step, -step))
        expected = ((up - down) / 2e-5).mean(dim=0).detach()
        torch.testing.assert_close(found[:, axis], expected, rtol=1e-3, atol=1e-6)
    assert found.abs().max() > 1e-3


def test_iv_13_batch_and_covariates_widen_the_decoder_only():
    plain = module()
    told = module(n_batch=2, n_cats_per_cov=(3, 1), n_continuous_cov=2)
    shapes = [{name: p.shape for name, p in net.state_dict().items()} for net in (plain, told)]
    changed = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert shapes[0].keys() == shapes[1].keys() and changed == {"vae.decoder.nn.0.weight"}
    assert told.vae.decoder.nn[0].in_features == 4 + 2 + 3 + 2  # a covariate of one category says nothing
    more = {
        "batch": torch.arange(B).unsqueeze(1) % 2,
        "extra_categorical_covs": torch.stack([torch.arange(B) % 3, torch.zeros(B)], dim=1),
        "extra_continuous_covs": torch.randn(B, 2),
    }
    seen = []
    told.vae.decoder.nn.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    told.eval()(batch(**more), compute_loss=False)
    columns = seen[0][:, 4:]
    torch.testing.assert_close(columns[:, :2], torch.eye(2)[torch.arange(B) % 2])
    torch.testing.assert_close(columns[:, 2:5], torch.eye(3)[torch.arange(B) % 3])
    torch.testing.assert_close(columns[:, 5:], more["extra_continuous_covs"])


def test_iv_13_one_cell_works():
    net = module(dip=1.0, tc=1.0, info=1.0)
    for training in (False, True):
        inferred, generated, found = losses(net.train(training), batch(1))
        assert found.loss.isfinite() and generated["px"].mu.shape == (1, G)


def test_mean_in_eval_mode_unless_a_sample_is_asked_for():
    net, x = module().eval(), batch()["X"]
    mean = net.inference(x)
    torch.testing.assert_close(mean["z"], mean["qz"].loc)
    assert not torch.equal(net.inference(x, sample=True)["z"], mean["z"])
    assert net.inference(x, n_samples=3)["z"].shape == (3, B, 4)
    with net.decoding(sample=True):
        assert not torch.equal(net.inference(x)["z"], mean["z"])
    assert not torch.equal(net.train().inference(x)["z"], mean["z"])


def test_decoding_through_the_bottleneck():
    net, tensors = module().eval(), batch()
    z = net.inference(tensors["X"])["z"]
    with net.decoding(from_bottleneck=True):
        _, generated = net(tensors, compute_loss=False)
    torch.testing.assert_close(generated["px"].scale, net.vae.decoder(net.vae.bottleneck(z)))
    assert not net.from_bottleneck


def test_posterior_predictive_samples_have_the_predicted_mean():
    net, tensors = module().eval(), batch()
    torch.manual_seed(0)
    counts = net.sample(tensors, n_samples=400)
    assert counts.shape == (B, G, 400) and (counts >= 0).all() and (counts == counts.round()).all()
    assert net.sample(tensors).shape == (B, G)
    library = tensors["X"].sum(dim=1)
    np.testing.assert_allclose(counts.sum(dim=1).mean(dim=1), library, rtol=0.25)
