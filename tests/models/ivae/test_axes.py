"""Axes of a trained model: order, sign and rotation by what they explain."""

import copy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from hpvade.models.ivae._axes import explained_variance, information, order_axes, ordered_axes, principal_axes
from hpvade.models.ivae._network import VAE


@pytest.fixture
def planted():
    """Scores (300, 3) with independent axes of variances 4, 1 and 9, and loadings (40, 3) skewed to the left."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(300, 3))
    scores = np.linalg.qr(scores - scores.mean(axis=0))[0] * np.sqrt(300) * [2.0, 1.0, 3.0]
    return scores, -rng.exponential(size=(40, 3)), rng.uniform(0.5, 2, size=40)


def test_information_is_that_of_the_negative_binomial():
    mean, theta, step = 3.0, 2.0, 1e-3
    x = torch.arange(2000, dtype=torch.float64)

    def log_likelihood(log_mean):
        probability = theta / (theta + np.exp(log_mean))
        logits = torch.tensor(np.log((1 - probability) / probability), dtype=torch.float64)
        return torch.distributions.NegativeBinomial(torch.tensor(theta, dtype=torch.float64), logits=logits).log_prob(x)

    score = (log_likelihood(np.log(mean) + step) - log_likelihood(np.log(mean) - step)) / (2 * step)
    expected = float((log_likelihood(np.log(mean)).exp() * score.square()).sum())
    assert information(np.array([mean]), np.array([theta]))[0] == pytest.approx(expected, rel=1e-5)


def test_explained_variance_is_that_of_the_reconstruction(planted):
    scores, loadings, weights = planted
    expected = [(np.outer(scores[:, i], loadings[:, i]).var(axis=0) * weights).sum() for i in range(3)]
    np.testing.assert_allclose(explained_variance(scores, loadings, weights), expected)


@pytest.mark.parametrize("seed", range(5))
def test_permuted_and_flipped_axes_come_to_the_same_order_and_sign(planted, seed):
    scores, loadings, weights = planted
    rng = np.random.default_rng(seed)
    shuffle, flip = rng.permutation(3), rng.choice([-1.0, 1.0], 3)
    order, signs = ordered_axes(scores, loadings, weights)
    other, other_signs = ordered_axes(scores[:, shuffle] * flip, loadings[:, shuffle] * flip, weights)
    np.testing.assert_allclose((scores[:, shuffle] * flip)[:, other] * other_signs, scores[:, order] * signs)
    assert (np.diff(explained_variance(scores, loadings, weights)[order]) < 0).all()
    assert (signs == -1).all()  # the planted loadings have their long tail on the left


@pytest.mark.parametrize("seed", range(3))
def test_principal_axes_are_those_of_pca_after_any_linear_map(planted, seed):
    scores, loadings, weights = planted
    mixed_by = np.random.default_rng(seed).normal(size=(3, 3))
    mixed = scores @ mixed_by.T + 5.0
    read = loadings @ np.linalg.inv(mixed_by)
    axes = principal_axes(mixed, read, weights)
    found = (mixed - mixed.mean(axis=0)) @ axes.T
    pca = PCA(3).fit(np.sqrt(weights) * (scores @ loadings.T))
    expected = pca.transform(np.sqrt(weights) * (scores @ loadings.T)) / np.sqrt(pca.explained_variance_ * 299 / 300)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
    turned = read @ np.linalg.inv(axes)
    np.testing.assert_allclose(
        explained_variance(found, turned, weights), pca.explained_variance_ * 299 / 300, rtol=1e-8
    )
    assert ((np.sqrt(weights)[:, None] * turned) ** 3).sum(axis=0).min() > 0
    np.testing.assert_allclose(found, (scores - scores.mean(axis=0)) @ principal_axes(scores, loadings, weights).T)


def test_cells_that_are_all_alike_keep_their_axes():
    np.testing.assert_array_equal(principal_axes(np.ones((5, 2)), np.ones((4, 2)), np.ones(4)), np.eye(2))
    one_line = np.arange(6.0)[:, None] * [1.0, 2.0]
    assert np.isfinite(principal_axes(one_line, np.eye(4, 2), np.ones(4))).all()


def outputs(vae, x):
    """What the network says of cells, decoded without and with the bottleneck."""
    mean, _ = vae.encoder.posterior(x)
    return vae.decode(mean), vae.decode(vae.bottleneck(mean))


def test_the_network_says_the_same_after_its_axes_were_turned():
    torch.manual_seed(0)
    vae, x = VAE(30, 16, 5, 3).double(), torch.rand(7, 30, dtype=torch.float64)
    before, (mean, raw) = outputs(vae, x), vae.encoder.posterior(x)
    code = vae.latent_encoder(mean).detach()
    order, signs = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0])
    matrix, centre = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    vae.turn_bottleneck(matrix, centre)
    vae.order_latent(order, signs)
    for found, expected in zip(outputs(vae, x), before, strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(vae.encoder.posterior(x)[0], mean[:, order] * signs)
    torch.testing.assert_close(vae.encoder.posterior(x)[1], raw[:, order])
    torch.testing.assert_close(vae.latent_encoder(mean[:, order] * signs), (code - centre) @ matrix.T)


def test_a_trained_model_has_principal_axes_and_loadings_to_match(embedded):
    model, X = embedded.model, embedded.adata.X.toarray()
    code, loadings = model.get_bottleneck_representation().astype(float), model.get_loadings().to_numpy()
    np.testing.assert_allclose(code.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(code, rowvar=False, bias=True), np.eye(2), atol=1e-3)
    weights = information(X.mean(axis=0), model.module.vae.decoder.disp.exp().detach().numpy())
    inner = loadings.T @ (weights[:, None] * loadings)
    assert inner[0, 0] > inner[1, 1] and abs(inner[0, 1]) < 1e-3 * inner[0, 0]
    assert ((np.sqrt(weights)[:, None] * loadings) ** 3).sum(axis=0).min() > 0


def test_a_mixed_up_model_is_brought_back(embedded, cells):
    model = copy.copy(embedded.model)
    model.module = copy.deepcopy(embedded.model.module)
    expected = model.get_embeddings()
    torch.manual_seed(1)
    signs = torch.where(torch.rand(10) < 0.5, -1.0, 1.0)
    model.module.vae.turn_bottleneck(torch.randn(2, 2), torch.randn(2))
    model.module.vae.order_latent(torch.randperm(10), signs)
    mixed = model.get_embeddings()
    assert all(np.abs(mixed[name] - expected[name]).max() > 0.5 for name in expected)
    order_axes(model)
    for name, found in model.get_embeddings().items():
        np.testing.assert_allclose(found, expected[name], atol=1e-3)


def test_a_model_without_bottleneck_has_ordered_latent_axes(unread):
    model = unread.model
    before = model.get_latent_representation()
    order_axes(model)  # a second time changes nothing
    np.testing.assert_array_equal(model.get_latent_representation(), before)
