"""The modules that scvi-tools trains: losses by hand, invariances, conversions."""

import numpy as np
import pytest
import torch
from scipy.stats import nbinom
from torch.nn.functional import softmax

from hpvade.models._saving import load_tensors
from hpvade.models.hpvade._literal_module import LiteralModule
from hpvade.models.hpvade._options import PRESETS
from hpvade.models.hpvade._scvi_module import PACE, HPVADEModule

N_VARS, N_GENES, N_TYPES = 30, 20, 3


def make(preset="default", n_batch=1, **changes):
    torch.manual_seed(0)
    cls = HPVADEModule if preset == "default" else LiteralModule
    options = dict(PRESETS[preset]) | {"n_hidden": 16, "n_latent": 4} | changes
    module = cls(N_VARS, N_GENES, N_TYPES, n_batch, **options)
    rng = np.random.default_rng(0)
    index = np.sort(rng.permutation(N_VARS)[:N_GENES])
    module.gene_index.copy_(torch.from_numpy(index))
    values = (rng.random(N_VARS), rng.gamma(1.0, 2.0, (N_VARS, N_TYPES)), [0.2, 0.3, 0.5], [1.0, 0.5, 1.5])
    module.set_reference(*(torch.as_tensor(np.asarray(v)) for v in values))
    module.initialise(cells()["X"], bulk_batch(64)["bulk"])
    return module.eval()


def cells(n=12, batch=0):
    rng = np.random.default_rng(1)
    return {
        "X": torch.from_numpy(rng.poisson(3.0, (n, N_VARS)).astype(np.float32)),
        "labels": torch.from_numpy(rng.integers(0, N_TYPES, (n, 1))),
        "batch": torch.full((n, 1), batch),
    }


def bulk_batch(n=16, seed=2):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(1.0, 50.0, (n, N_GENES))).astype(np.float32) + 1
    truth = rng.dirichlet(np.ones(N_TYPES), n).astype(np.float32)
    truth[0] = [1, 0, 0]
    return {"bulk": torch.from_numpy(counts), "proportions": torch.from_numpy(truth)}


def log1p_cp10k(x):
    return np.log1p(1e4 * x / x.sum(axis=-1, keepdims=True))


def test_cell_terms_equal_numpy():
    module, batch = make(lambda_kl=0.7, lambda_proto=1.3, lambda_ref=0.4), cells()
    with torch.no_grad():
        module.log_change += 0.1 * torch.randn(module.log_change.shape)
        torch.manual_seed(3)
        inference, generated, loss = module(batch, loss_kwargs={"kl_weight": 0.5})
    x = batch["X"].numpy()[:, module.gene_index].astype(float)
    mu = generated["px"].get_normalized("scale").numpy() * x.sum(axis=1, keepdims=True)
    theta = module.log_theta.exp().detach().numpy()
    reconstruction = -nbinom.logpmf(x, theta, theta / (theta + mu)).sum(axis=1)
    np.testing.assert_allclose(loss.reconstruction_loss["reconstruction_loss"], reconstruction, rtol=1e-4)
    mean, sd = inference["qz"].loc.numpy(), inference["qz"].scale.numpy()
    kl = 0.5 * (mean**2 + sd**2 - 1 - 2 * np.log(sd)).sum(axis=1)
    np.testing.assert_allclose(loss.kl_local["kl_local"], kl, rtol=1e-4)

    start = (module.mean_counts[module.gene_index] + 1e-3).double().numpy()
    S = start * np.exp(PACE * module.log_change.detach().double().numpy())
    change = np.log(S / S.sum(axis=0)) - np.log(start / start.sum(axis=0))
    proto = -(x * change.T[batch["labels"].numpy().ravel()]).sum() / x.sum()
    prior = (np.log(S / start) ** 2).mean()
    assert float(loss.extra_metrics["proto"]) == pytest.approx(proto, rel=1e-3)
    assert float(loss.extra_metrics["prior"]) == pytest.approx(prior, rel=1e-3)
    expected = (reconstruction.mean() + 0.5 * 0.7 * kl.mean()) / N_GENES + 1.3 * proto + 0.4 * prior
    assert float(loss.loss) == pytest.approx(expected, rel=1e-4)


def test_bulk_terms_equal_numpy():
    module, batch = make(lambda_bulk=2.0, lambda_bulk_recon=0.3), bulk_batch()
    with torch.no_grad():
        loss, parts = module.bulk_losses(batch)
        logits = module.logits(batch["bulk"]).numpy().astype(float)
    truth = batch["proportions"].numpy().astype(float)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    prop = (truth * (np.log(np.maximum(truth, 1e-30)) - np.log(p))).sum(axis=1).mean()
    mixture = truth @ (module.mean_counts[module.gene_index] + 1e-3).numpy().T  # nothing is learned yet
    error = log1p_cp10k(mixture) - log1p_cp10k(batch["bulk"].numpy().astype(float))
    recon = (module.bulk_weight.numpy() * error**2).mean()
    assert float(parts["prop"]) == pytest.approx(prop, rel=1e-4)
    assert float(parts["bulk_recon"]) == pytest.approx(recon, rel=1e-4)
    assert float(loss) == pytest.approx(2 * (prop + 0.3 * recon), rel=1e-4)
    rmse = np.sqrt(((p - truth) ** 2).mean())
    constant = np.sqrt(((truth - truth.mean(axis=0)) ** 2).mean())
    assert float(parts["rmse"]) == pytest.approx(rmse, rel=1e-4)
    assert float(parts["rmse_skill"]) == pytest.approx(1 - rmse / constant, rel=1e-3, abs=1e-4)


def test_bulk_weight_is_the_inverse_variance_with_mean_one():
    module = make()
    variance = log1p_cp10k(bulk_batch(64)["bulk"].numpy().astype(float)).var(axis=0)
    expected = 1 / np.maximum(variance, 1e-2)
    np.testing.assert_allclose(module.bulk_weight, expected / expected.mean(), rtol=1e-3)


@pytest.mark.parametrize("preset", ["default", "spec"])
@pytest.mark.parametrize("training", [False, True])
def test_hp07_train_path_does_not_see_the_scale(preset, training):
    module, batch = make(preset).train(training), bulk_batch()
    factors = torch.logspace(-6, 6, 16)[:, None]
    results = []
    for bulk in (batch["bulk"], batch["bulk"] * factors):
        torch.manual_seed(0)
        with torch.no_grad():
            loss, parts = module.bulk_losses({**batch, "bulk": bulk})
        results.append([float(loss), *(float(parts[name]) for name in ("prop", "bulk_recon", "rmse"))])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)


@pytest.mark.parametrize("preset", ["default", "spec"])
def test_hp07_predict_path_does_not_see_the_scale(preset):
    module = make(preset)
    x = torch.rand(16, N_VARS) + 0.01
    present = torch.ones(N_VARS, dtype=torch.bool)
    expected = module.predict(x, present)
    np.testing.assert_allclose(module.predict(x * torch.logspace(-12, 12, 16)[:, None], present), expected, atol=1e-5)
    np.testing.assert_allclose(expected.sum(dim=1), 1, atol=1e-6)


def test_hp12_conversions_are_inverse():
    module = make()
    sizes = torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64)
    cells = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(3), 100))
    cells[0] = torch.tensor([1.0, 0.0, 0.0])
    rna = module.cells_to_rna(cells, sizes)
    np.testing.assert_allclose(module.rna_to_cells(rna, sizes), cells, atol=1e-6)
    expected = cells.numpy() * sizes.numpy()
    np.testing.assert_allclose(rna, expected / expected.sum(axis=1, keepdims=True), atol=1e-12)
    # at equal numbers of cells the type with four times the RNA has four times the share
    half = module.cells_to_rna(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([1.0, 4.0, 1.0]))
    np.testing.assert_allclose(half, [[0.2, 0.8, 0.0]], atol=1e-6)


def test_hp11_signature_is_the_measured_one_times_what_training_learned():
    module = make()
    torch.testing.assert_close(module.signature(), module.mean_counts, rtol=0, atol=0)
    with torch.no_grad():
        module.log_change.normal_(0, 30)
    assert (module.signature() >= 0).all()
    unseen = np.setdiff1d(np.arange(N_VARS), module.gene_index)
    torch.testing.assert_close(module.signature()[unseen], module.mean_counts[unseen], rtol=0, atol=0)
    expected = module.mean_counts[module.gene_index] * (PACE * module.log_change).exp()
    torch.testing.assert_close(module.signature()[module.gene_index], expected)


def test_models_of_the_first_version_keep_what_they_learned_and_lose_their_drift():
    """They held log S and its start for all genes; weight decay had moved the genes that no loss reaches."""
    module = make()
    start = (module.mean_counts + 1e-3).log()
    learned = 0.1 * torch.randn(N_GENES, N_TYPES)
    end = start * 0.5
    end[module.gene_index] = start[module.gene_index] + learned
    old = module.state_dict() | {"log_S": end, "log_S_ref": start}
    for name in ("log_change", "network_trained"):
        del old[name]
    load_tensors(other := make(), old, "model.json")
    torch.testing.assert_close(other.change().detach(), learned, atol=1e-5, rtol=0)
    torch.testing.assert_close(other.signature(), module.mean_counts * other.learned())
    assert bool(other.network_trained)


def test_absent_genes_carry_no_weight():
    """What stands in the columns of genes that the bulk lacks does not reach the network or the solver."""
    module = make()
    x = torch.rand(5, N_VARS)
    present = torch.ones(N_VARS, dtype=torch.bool)
    present[module.gene_index[:5]] = False
    x[:, ~present] = 0
    network = module.predict(x, present)
    assert not torch.allclose(network, module.predict(x, torch.ones_like(present)), atol=1e-4)
    _, fit = module.refine(x / x.sum(dim=1, keepdim=True), present, torch.full((5,), 1e6), None)
    y = x.clone()
    y[:, ~present] = 99
    _, other = module.refine(y / x.sum(dim=1, keepdim=True), present, torch.full((5,), 1e6), None)
    torch.testing.assert_close(fit.rna_proportions, other.rna_proportions)


def test_gene_dropout_is_for_training_only():
    module, batch = make(gene_dropout=0.9, dropout_rate=0.0), bulk_batch()
    with torch.no_grad():
        evaluated = [float(module.bulk_losses(batch)[1]["prop"]) for _ in range(3)]
        module.train()
        drawn = [float(module.bulk_losses(batch)[1]["prop"]) for _ in range(3)]
    assert len(set(evaluated)) == 1 and len(set(drawn)) == 3


def test_dead_units_are_counted():
    module = make()
    assert float(module.bulk_losses(bulk_batch())[1]["dead_units"]) < 0.5
    with torch.no_grad():
        for layer in module.bulk_hidden:
            if isinstance(layer, torch.nn.LayerNorm):
                layer.bias.fill_(-100)
    assert float(module.bulk_losses(bulk_batch())[1]["dead_units"]) == 1.0


def test_batches_reach_the_decoder_only_when_there_are_two():
    z, library = torch.randn(4, 4), torch.ones(4, 1)
    for n_batch, differs in ((1, False), (2, True)):
        module = make(n_batch=n_batch)
        scales = [
            module.generative(z, library, torch.full((4, 1), b))["px"].get_normalized("scale") for b in range(n_batch)
        ]
        assert scales[0].shape == (4, N_GENES)
        np.testing.assert_allclose(scales[0].detach().sum(dim=1), 1, atol=1e-5)
        assert differs is (not torch.allclose(scales[0], scales[-1]))


@pytest.mark.parametrize("preset", ["default", "spec"])
def test_several_samples_of_the_posterior(preset):
    module = make(preset, n_batch=2 if preset == "default" else 1)
    inference, generated = module(cells(), inference_kwargs={"n_samples": 3}, compute_loss=False)
    assert inference["z"].shape == (3, 12, 4)
    mean = generated["px"].mean
    assert mean.shape == (3, 12, N_GENES) and bool(mean.isfinite().all())


def test_literal_loss_is_that_of_hp_vade():
    """The total of both streams equals `HP_VADE`'s own on the same batch, in eval mode."""
    module, batch, bulk = make("spec", lambda_kl=0.2), cells(), bulk_batch()
    with torch.no_grad():
        _, _, loss = module(batch)
        bulk_loss, _ = module.bulk_losses(bulk)
    literal = {
        "sc_data": torch.from_numpy(log1p_cp10k(batch["X"].numpy()[:, module.gene_index])),
        "sc_label": batch["labels"].ravel(),
        "bulk_data": torch.from_numpy(log1p_cp10k(bulk["bulk"].numpy())),
        "bulk_prop": bulk["proportions"],
    }
    module.literal.log_dict = module.literal.log = lambda *args, **kwargs: None
    with torch.no_grad():
        expected = module.literal.training_step(literal, 0)
    assert float(loss.loss + bulk_loss) == pytest.approx(float(expected), rel=1e-5)


def test_literal_signature_is_nan_where_it_knows_nothing():
    module = make("spec")
    signature = module.signature()
    known = np.isin(np.arange(N_VARS), module.gene_index)
    assert bool(signature[~known].isnan().all())
    torch.testing.assert_close(signature[known], module.literal.S.detach())


def test_shared_terms_reach_the_shared_parameter():
    for preset in ("default", "spec"):
        module = make(preset).train()
        _, _, loss = module(cells())
        _, parts = module.bulk_losses(bulk_batch())
        parameter, terms = module.shared_terms(loss, parts)
        assert parameter is (module.log_change if preset == "default" else module.literal.S)
        for name, term in terms.items():
            gradient = torch.autograd.grad(term, parameter, retain_graph=True)[0]
            assert bool(gradient.isfinite().all()), name


def test_proportions_are_a_softmax_of_the_logits():
    module, x = make(), torch.rand(6, N_VARS)
    present = torch.ones(N_VARS, dtype=torch.bool)
    with torch.no_grad():
        expected = softmax(module.logits(x[:, module.gene_index]), dim=1)
    torch.testing.assert_close(module.predict(x, present), expected)
