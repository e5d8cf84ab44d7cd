"""The literal network and its options: rows CV-01, CV-03, CV-11, CV-16, CV-20."""

import numpy as np
import pytest
import torch
from scipy import stats

from hpvade.nn.cvae import ConditionalVAENet, VAEConfig, fold_change

SMALL = {"input_dim": 30, "latent_dim": 4, "hidden_dims": [16, 8], "n_cell_types": 3, "n_perturbations": 4}
ROBUST = {"likelihood": "nb", "encoder_conditioning": "experiment", "normalization": "layer", "control_perturbation": 1}


def inputs(n=6, n_genes=30, counts=False):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, n_genes, generator=generator)
    ids = [torch.arange(n) % size for size in (3, 4, 5)]
    return (torch.poisson(5 * x, generator=generator) + (torch.arange(n_genes) == 0) if counts else x), ids


# ---------------------------------------------------------------- CV-01


def test_cv_01_literal_shapes_and_initialisation():
    torch.manual_seed(0)
    net = ConditionalVAENet(VAEConfig())
    tables = (net.cell_type_embedding, net.perturbation_embedding, net.experiment_embedding)
    assert [tuple(table.weight.shape) for table in tables] == [(50, 32), (100, 32), (500, 16)]
    kinds = [type(layer).__name__ for layer in net.encoder]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 == [type(layer).__name__ for layer in net.decoder]
    shapes = [tuple(layer.weight.shape) for layer in (net.encoder[0], net.encoder[4], net.fc_mu, net.fc_logvar)]
    assert shapes == [(512, 2080), (256, 512), (128, 256), (128, 256)]
    shapes = [tuple(layer.weight.shape) for layer in (net.decoder[0], net.decoder[4], net.output)]
    assert shapes == [(256, 208), (512, 256), (2000, 512)]
    assert net.encoder[3].p == 0.1
    for layer in net.modules():
        if isinstance(layer, torch.nn.Linear):  # kaiming normal, fan_out
            assert float(layer.weight.std()) == pytest.approx((2 / layer.out_features) ** 0.5, rel=0.05)
            assert (layer.bias == 0).all()
        if isinstance(layer, torch.nn.BatchNorm1d):
            assert (layer.weight == 1).all() and (layer.bias == 0).all()
    assert float(net.experiment_embedding.weight.std()) == pytest.approx(0.1, rel=0.05)


def test_cv_01_forward_and_generate():
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5))
    x, ids = inputs()
    out = net.train()(x, *ids)
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "reconstructed": (6, 30), "mu": (6, 4), "logvar": (6, 4), "z": (6, 4), "conditioning": (6, 80),
    }  # fmt: skip
    assert not torch.equal(out["z"], out["mu"])
    out = net.eval()(x, *ids)
    assert torch.equal(out["z"], out["mu"])
    expected = torch.cat([net.cell_type_embedding.weight[ids[0]], net.perturbation_embedding.weight[ids[1]],
                          net.experiment_embedding.weight[ids[2]]], dim=1)  # fmt: skip
    torch.testing.assert_close(out["conditioning"], expected)
    net.train()
    cells = net.generate(*ids, n_samples=3)
    assert cells.shape == (18, 30) and net.training


def test_cv_01_repeats_of_a_condition_are_adjacent():
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5)).eval()
    with torch.no_grad():
        net.output.weight.zero_()
        net.decoder[0].weight[:, :4] = 0  # what is decoded depends on the condition alone
    net.output.weight.data.normal_()
    _, ids = inputs(3)
    cells = net.generate(*ids, n_samples=4).reshape(3, 4, 30)
    torch.testing.assert_close(cells, cells[:, :1].expand(-1, 4, -1))
    assert not torch.allclose(cells[0, 0], cells[1, 0])


@pytest.mark.parametrize(("conditioning", "differs"), [("all", True), ("experiment", False), ("none", False)])
def test_cv_03_what_the_encoder_sees(conditioning, differs):
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, encoder_conditioning=conditioning)).eval()
    x, ids = inputs()
    other = [ids[0].flip(0), ids[1].flip(0), ids[2]]
    assert torch.equal(net.encode(x, *ids)[0], net.encode(x, *other)[0]) is not differs
    moved = [ids[0], ids[1], ids[2].flip(0)]
    assert torch.equal(net.encode(x, *ids)[0], net.encode(x, *moved)[0]) is (conditioning == "none")


# ---------------------------------------------------------------- CV-11, CV-16


def test_cv_11_literal_loss_equals_numpy():
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, kld_weight=0.7, reconstruction_weight=1.3)).eval()
    x, ids = inputs()
    out = net(x, *ids)
    mu, logvar, x_hat = (out[name].detach().numpy().astype(float) for name in ("mu", "logvar", "reconstructed"))
    expected = 1.3 * ((x_hat - x.numpy()) ** 2).sum() - 0.5 * 0.7 * (1 + logvar - mu**2 - np.exp(logvar)).sum()
    assert float(net.loss(x, out)) == pytest.approx(expected, rel=1e-5)


def test_cv_11_robust_loss_equals_scipy():
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, **ROBUST)).eval()
    net.log_theta.data.normal_()
    x, ids = inputs(counts=True)
    out = net(x, *ids)
    theta, mean = (
        net.log_theta.exp().detach().numpy().astype(float),
        out["reconstructed"].detach().numpy().astype(float),
    )
    expected = -stats.nbinom.logpmf(x.numpy(), theta, theta / (theta + mean)).sum(axis=1)
    np.testing.assert_allclose(net.losses(x, out)["reconstruction"].detach(), expected, rtol=1e-4)
    np.testing.assert_allclose(mean.sum(axis=1), x.sum(dim=1), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, ROBUST])
def test_cv_16_twice_the_cells_same_loss_per_cell(options):
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, **options)).eval()
    x, ids = inputs(counts=bool(options))
    one = net.loss(x, net(x, *ids)) / 6
    x, ids = torch.cat([x, x]), [torch.cat([part, part]) for part in ids]
    two = net.loss(x, net(x, *ids)) / 12
    assert float(one) == pytest.approx(float(two), rel=1e-5)


# ---------------------------------------------------------------- questions


def test_cv_20_least_reconstruction_error():
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, **ROBUST)).train()
    x, ids = inputs(counts=True)
    found = net.predict_cell_type(x, ids[1], ids[2])
    assert net.training  # as it was
    net.eval()
    z, _ = net.encode(x, None, None, ids[2])
    library = x.sum(dim=1, keepdim=True)
    errors = [
        net.reconstruction_error(x, net.decode(z, torch.full((6,), k), *ids[1:], library=library)) for k in range(3)
    ]
    assert torch.equal(found, torch.stack(errors).argmin(dim=0))
    net.cell_type_embedding.seen[int(found[0])] = False  # a type without training cells is no candidate
    assert net.predict_cell_type(x, ids[1], ids[2])[0] != found[0]


def test_cv_20_counterfactual_of_control_is_the_reconstruction():
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, **ROBUST)).eval()
    x, ids = inputs(counts=True)
    control = torch.ones(6, dtype=torch.long)
    torch.testing.assert_close(
        net.predict_perturbation_effect(x, ids[0], ids[2], 1), net(x, ids[0], control, ids[2])["reconstructed"]
    )
    literal = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5)).eval()
    assert literal.predict_perturbation_effect(x, ids[0], ids[2], 1).shape == (6, 30)


def test_scale_sums_to_one_for_either_likelihood():
    x, ids = inputs()
    for options in ({}, ROBUST):
        net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, **options)).eval()
        scale = net.scale(torch.randn(6, 4), *ids)
        assert (scale >= 0).all()
        torch.testing.assert_close(scale.sum(dim=1), torch.ones(6))


def test_shares_of_types_decode_like_ids():
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, **ROBUST)).eval()
    _, ids = inputs()
    z = torch.randn(6, 4)
    members = torch.nn.functional.one_hot(ids[0], 3).float()
    torch.testing.assert_close(net.decode(z, members, *ids[1:]), net.decode(z, *ids))


def test_counts_have_the_mean_and_variance_of_the_negative_binomial():
    net = ConditionalVAENet(VAEConfig(**SMALL, n_experiments=5, **ROBUST))
    net.log_theta.data.fill_(np.log(4.0))
    torch.manual_seed(0)
    counts = net.draw_counts(torch.full((40000, 30), 6.0))
    assert float(counts.mean()) == pytest.approx(6, rel=0.01)
    assert float(counts.var()) == pytest.approx(6 + 36 / 4, rel=0.02)


def test_fold_change_needs_a_scale_without_negative_values():
    torch.testing.assert_close(fold_change(torch.tensor([3.0]), torch.tensor([0.0])), torch.tensor([3e8]))
    for pair in ((-1.0, 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="-1; fold changes need values >= 0"):
            fold_change(*(torch.tensor([value]) for value in pair))
