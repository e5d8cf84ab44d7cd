"""Blocks of the regularised models against the same computation by hand."""

import torch
from torch.nn.functional import layer_norm, linear, softplus

from hpvade.models.ambient._regularized import RegularizedDecoderSCVI, RegularizedEncoder, RegularizedFCLayers


def test_each_layer_sees_the_categories():
    layers = RegularizedFCLayers(5, 3, (2, 1, 4), n_layers=2, n_hidden=7, dropout_rate=0.0)
    x, cats = torch.randn(6, 5), torch.randn(6, 6)
    expected = x
    for layer in layers.fc_layers:
        out = linear(torch.cat([expected, cats], 1), layer[0].weight, layer[0].bias)
        expected = layer_norm(out, out.shape[1:]).relu()
    torch.testing.assert_close(layers(x, cats), expected)
    assert [tuple(w.shape) for w in layers.weights()] == [
        (7, 11),
        (3, 13),
    ]  # the covariate with one category is ignored
    assert not [name for name, _ in layers.named_parameters() if name.split(".")[-2] != "0"]  # LayerNorm has none


def test_a_leading_axis_of_samples_is_the_same_row_by_row():
    layers = RegularizedFCLayers(5, 3, (2,)).eval()
    x, cats = torch.randn(4, 6, 5), torch.eye(2)[torch.randint(0, 2, (6,))]
    torch.testing.assert_close(layers(x, cats)[2], layers(x[2], cats))


def test_dropout_acts_on_the_input_in_training_only():
    layers = RegularizedFCLayers(200, 4, dropout_rate=0.9)
    x = torch.ones(1, 200)
    assert not torch.equal(layers(x), layers(x))
    layers.eval()
    torch.testing.assert_close(layers(x), layers(x), rtol=0, atol=0)


def test_batch_and_layer_norm_can_be_chosen():
    kinds = [type(part).__name__ for part in RegularizedFCLayers(3, 3, batch_norm=True, layer_norm=False).fc_layers[0]]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"]


def test_encoder_variance_is_exp_plus_a_floor():
    encoder = RegularizedEncoder(5, 2).eval()
    x = torch.randn(6, 5)
    q, sample = encoder(x)
    hidden = encoder.encoder(x)
    torch.testing.assert_close(q.loc, encoder.mean_encoder(hidden))
    torch.testing.assert_close(q.variance, encoder.var_encoder(hidden).exp() + 1e-4)
    assert sample.shape == (6, 2)


def test_decoder_is_softplus_of_the_hidden_values_without_dropout():
    decoder = RegularizedDecoderSCVI(4, 9, (3,), dropout_rate=0.5)
    z, cats = torch.randn(6, 4), torch.randn(6, 3)
    rho, hidden = decoder(z, cats)
    torch.testing.assert_close(rho, softplus(decoder.px_scale_decoder[0](hidden)))
    torch.testing.assert_close(rho, decoder(z, cats)[0], rtol=0, atol=0)
    assert (rho > 0).all()
    assert decoder.covariate_weights().shape == (128, 3)
    assert [tuple(w.shape) for w in decoder.weights()] == [(128, 7), (9, 128)]
