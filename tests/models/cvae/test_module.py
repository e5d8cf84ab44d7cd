"""Losses of the scvi module: rows CV-11, CV-16."""

import numpy as np
import pytest
import torch
from scipy import stats

from hpvade.models.cvae._module import CLASSIFIER_SCALE, ConditionalVAEModule, mmd
from hpvade.nn.cvae import VAEConfig

SIZES = {
    "input_dim": 40,
    "latent_dim": 5,
    "hidden_dims": [12],
    "n_cell_types": 4,
    "n_perturbations": 3,
    "n_experiments": 3,
}
ROBUST = {"likelihood": "nb", "encoder_conditioning": "experiment", "normalization": "layer", "control_perturbation": 0}


def module(use_size_factor=False, **options):
    torch.manual_seed(0)
    config = VAEConfig(**SIZES | ROBUST | {"classifier_weight": 1.0} | options)
    found = ConditionalVAEModule(config, [0, 1, 2, 3], [0, 1], [0, 1], use_size_factor=use_size_factor)
    found.net.cell_type_embedding.seen[3] = False
    return found.eval()


def batch(n=12):
    generator = torch.Generator().manual_seed(1)
    x = torch.poisson(3 * torch.rand(n, 40, generator=generator), generator=generator)
    x[:, 0] += 1
    labels, other = torch.arange(n)[:, None] % 4, torch.arange(n)[:, None] % 2
    return {
        "X": x,
        "labels": labels,
        "perturbation": other.float(),
        "batch": other,
        "size_factor": x.sum(1, keepdim=True) / 10,
    }


def step(found, tensors, **kwargs):
    inference = found.inference(**found._get_inference_input(tensors))
    inference["z"] = inference["qz"].loc
    generative = found.generative(**found._get_generative_input(tensors, inference))
    return inference, generative, found.loss(tensors, inference, generative, **kwargs)


@pytest.mark.parametrize("weights", [{}, {"kld_weight": 0.3, "reconstruction_weight": 2.0, "classifier_weight": 0.5}])
def test_cv_11_loss_equals_scipy(weights):
    found, tensors = module(**weights), batch()
    inference, generative, losses = step(found, tensors, kl_weight=0.7)
    c, x = found.net.config, tensors["X"].numpy()
    theta, mean = found.net.log_theta.exp().detach().numpy().astype(float), generative["px"].mu.detach().numpy()
    reconstruction = -stats.nbinom.logpmf(x, theta, theta / (theta + mean)).sum(axis=1)
    mu, sd = (getattr(inference["qz"], name).detach().numpy().astype(float) for name in ("loc", "scale"))
    kl = (np.log(1 / sd) + (sd**2 + mu**2 - 1) / 2).sum(axis=1)
    np.testing.assert_allclose(losses.reconstruction_loss["reconstruction_loss"].detach(), reconstruction, rtol=1e-4)
    np.testing.assert_allclose(losses.kl_local["kl_local"].detach(), kl, rtol=1e-4)
    logits = found.net.classifier(inference["z"]).detach().numpy()[:, :3]
    labels = tensors["labels"].numpy().ravel()
    known = labels < 3
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    entropy = -log_p[np.flatnonzero(known), labels[known]].mean()
    assert float(losses.extra_metrics["classifier_loss"]) == pytest.approx(entropy, rel=1e-4)
    expected = c.reconstruction_weight * reconstruction.mean() + 0.7 * c.kld_weight * kl.mean()
    expected += c.classifier_weight * CLASSIFIER_SCALE * entropy
    assert float(losses.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert float(found.parts["loss"]) == pytest.approx(expected, rel=1e-4)


def test_cv_16_twice_the_cells_same_loss():
    found, tensors = module(), batch()
    twice = {name: torch.cat([value, value]) for name, value in tensors.items()}
    one, two = (float(step(found, part)[2].loss) for part in (tensors, twice))
    assert one == pytest.approx(two, rel=1e-5)


def test_unlabelled_cells_are_decoded_by_the_classifier():
    found, tensors = module(), batch()
    inference = found.inference(**found._get_inference_input(tensors))
    members = found._get_generative_input(tensors, inference)["cell_types"]
    unknown = tensors["labels"].ravel() == 3
    expected = found.net.classifier(inference["z"])[unknown][:, :3].softmax(dim=1)
    torch.testing.assert_close(members[unknown][:, :3], expected.detach())
    assert (members[unknown][:, 3] == 0).all() and not members.requires_grad
    assert (members[~unknown].argmax(dim=1) == tensors["labels"].ravel()[~unknown]).all()


def test_a_batch_without_labels_has_no_classifier_loss():
    found, tensors = module(), batch()
    tensors["labels"] = torch.full_like(tensors["labels"], 3)
    losses = step(found, tensors)[2]
    assert float(losses.extra_metrics["classifier_loss"]) == 0 and torch.isfinite(losses.loss)


def test_registry_codes_become_ids():
    config = VAEConfig(**SIZES | ROBUST)
    found = ConditionalVAEModule(config, [2, 0, 3, 1], [1, 0], [0, 1], use_size_factor=False)
    types, perturbations, _ = found.ids(batch(4))
    assert types.tolist() == [2, 0, 3, 1] and perturbations.tolist() == [1, 0, 1, 0]


def test_size_factor_is_the_library():
    found, tensors = module(use_size_factor=True), batch()
    found.size_factor_scale.fill_(10.0)
    torch.testing.assert_close(found.library(tensors), tensors["X"].sum(dim=1, keepdim=True))


def test_sample_has_the_mean_of_the_distribution():
    found, tensors = module(), batch(2)
    torch.manual_seed(0)
    draws = found.sample(tensors, n_samples=3000)
    assert draws.shape == (2, 40, 3000) and (draws >= 0).all()
    np.testing.assert_allclose(draws.mean(dim=2).sum(dim=1), tensors["X"].sum(dim=1), rtol=0.05)


def test_mmd_penalty_is_part_of_the_loss():
    tensors = batch()
    without, with_penalty = module(), module(mmd_weight=3.0)
    _, _, plain = step(without, tensors)
    inference, _, losses = step(with_penalty, tensors)
    penalty = mmd(inference["z"], tensors["perturbation"].ravel())
    assert float(penalty.detach()) > 0
    assert float(losses.loss.detach() - plain.loss.detach()) == pytest.approx(3 * float(penalty.detach()), rel=1e-3)
    assert float(losses.extra_metrics["mmd"]) == pytest.approx(float(penalty.detach()), rel=1e-5)


def test_mmd_equals_numpy_and_is_zero_for_equal_groups():
    rng = np.random.default_rng(0)
    z, groups = rng.normal(size=(9, 3)), np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    z[3:6] += 2

    def kernel(a, b):
        squared = ((a[:, None] - b[None]) ** 2).sum(axis=2) / 3
        return sum(np.exp(-squared / scale) for scale in (0.5, 1, 2, 4)).mean()

    first = z[groups == 0]
    each = [
        kernel(first, first) + kernel(z[groups == g], z[groups == g]) - 2 * kernel(first, z[groups == g])
        for g in (1, 2)
    ]
    assert float(mmd(torch.from_numpy(z), torch.from_numpy(groups))) == pytest.approx(np.mean(each), rel=1e-6)
    same = torch.from_numpy(np.tile(z[:3], (2, 1)))
    assert float(mmd(same, torch.tensor([0, 0, 0, 1, 1, 1]))) == pytest.approx(0, abs=1e-9)
    assert float(mmd(same, torch.zeros(6))) == 0
