"""IV-01: the networks as the specification writes them."""

import numpy as np
import pytest
import torch
from torch import nn

from hpvade.nn.ivae import VAE, Decoder, Encoder, join, weight_init

G, H, D, J, B = 30, 16, 5, 2, 7


def kinds(layers):
    return [
        (type(layer).__name__, *((layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else ()))
        for layer in layers
    ]


def test_iv_01_layers_of_encoder_and_decoder():
    hidden = [("Linear", H, H), ("ReLU",)]
    assert kinds(Encoder(G, H, D).nn) == [("Linear", G, H), ("ReLU",), *hidden, ("Linear", H, 2 * D)]
    assert kinds(Decoder(G, H, D).nn) == [("Linear", D, H), ("ReLU",), *hidden, ("Linear", H, G), ("Softmax",)]
    assert Decoder(G, H, D).nn[-1].dim == -1
    vae = VAE(G, H, D, J)
    assert kinds([vae.latent_encoder, vae.latent_decoder]) == [("Linear", D, J), ("Linear", J, D)]
    assert isinstance(vae.encoder, Encoder) and isinstance(vae.decoder, Decoder)


def test_iv_01_xavier_in_encoder_and_decoder_torchs_default_in_the_bottleneck():
    torch.manual_seed(0)
    vae = VAE(400, 200, 50, 40)
    for layer in [*vae.encoder.nn, *vae.decoder.nn]:
        if isinstance(layer, nn.Linear):
            assert (layer.bias == 0.01).all()
            expected = (2 / (layer.in_features + layer.out_features)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
            assert (layer.weight.abs() > 2 * expected).any()  # normal, not uniform
    for layer in (vae.latent_encoder, vae.latent_decoder):
        bound = layer.in_features**-0.5  # kaiming_uniform with a = sqrt(5), and the bias alike
        assert layer.weight.abs().max() <= bound and layer.weight.std().item() == pytest.approx(
            bound / 3**0.5, rel=0.05
        )
        assert layer.bias.std() > 0


def test_iv_01_weight_init_leaves_other_modules_alone():
    norm = nn.LayerNorm(4)
    weight_init(norm)
    assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_iv_01_seven_outputs_in_order():
    torch.manual_seed(0)
    vae, x = VAE(G, H, D, J), torch.rand(B, G)
    q_z, q_m, q_s, pred_x, le, ld, pred_xl = vae(x)
    assert [tuple(t.shape) for t in (q_z, q_m, q_s, pred_x, le, ld, pred_xl)] == [
        *[(B, D)] * 3,
        (B, G),
        (B, J),
        (B, D),
        (B, G),
    ]
    raw = vae.encoder.nn(x)
    torch.testing.assert_close(q_m, raw[:, :D])
    torch.testing.assert_close(q_s, raw[:, D:])
    torch.testing.assert_close(le, vae.latent_encoder(q_z))
    torch.testing.assert_close(ld, vae.latent_decoder(le))
    torch.testing.assert_close(vae.bottleneck(q_z), ld)
    torch.testing.assert_close(pred_x, vae.decoder(q_z))
    torch.testing.assert_close(pred_xl, vae.decoder(ld))
    for rows in (pred_x, pred_xl):
        torch.testing.assert_close(rows.sum(dim=1), torch.ones(B))
    assert vae.decoder.disp.shape == (G,) and isinstance(vae.decoder.disp, nn.Parameter)
    torch.testing.assert_close(vae.decoder.logits(q_z).softmax(dim=-1), pred_x)


def test_samples_have_the_standard_deviation_of_the_losses():
    """At q_s = 0 the standard deviation is log 2 = 0.693, not exp(0) = 1."""
    torch.manual_seed(0)
    encoder = Encoder(3, 4, 2)
    nn.init.zeros_(encoder.nn[-1].weight)
    nn.init.zeros_(encoder.nn[-1].bias)
    q_z, q_m, q_s = encoder(torch.rand(20000, 3))
    assert (q_m == 0).all() and (q_s == 0).all()
    np.testing.assert_allclose(q_z.std(dim=0).detach(), np.log(2), rtol=0.02)
    assert encoder.scale(q_s)[0, 0].item() == pytest.approx(np.log(2) + 1e-6)


def test_covariates_widen_the_decoder_only():
    plain, told = VAE(G, H, D, J), VAE(G, H, D, J, n_covariates=3)
    assert told.decoder.nn[0].in_features == plain.decoder.nn[0].in_features + 3
    others = lambda vae: {n: p.shape for n, p in vae.state_dict().items() if n != "decoder.nn.0.weight"}  # noqa: E731
    assert others(plain) == others(told)
    covariates = torch.eye(3)[torch.arange(B) % 3]
    assert told(torch.rand(B, G), covariates)[3].shape == (B, G)
    z = torch.rand(2, B, D)
    torch.testing.assert_close(join(z, covariates)[1], torch.cat([z[1], covariates], dim=1))
    assert join(z, None) is z
