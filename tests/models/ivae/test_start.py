"""Where training starts: at the mean and the dispersion of the counts."""

import numpy as np
import torch

import hpvade as hp
from hpvade.models.ivae._start import start_from_counts


def test_decoder_starts_at_mean_expression_and_at_the_technical_dispersion():
    adata = hp.datasets.planted_contexts(1500, 60, fields={"condition": 1}, n_types=1, dispersion=2.0, seed=0)
    hp.IVAE.setup_anndata(adata)
    model = hp.IVAE(adata, n_hidden=8, n_latent=3)
    start_from_counts(model, np.arange(adata.n_obs))
    decoder, X = model.module.vae.decoder, adata.X.toarray()
    size = X.sum(axis=1, keepdims=True)
    mean = (X * size.mean() / size).mean(axis=0)
    np.testing.assert_allclose(decoder.nn[-2].bias.exp().detach(), mean + 1e-3, rtol=1e-4)
    # planted: 0.5; of the excess variance a tenth counts as technical
    theta = decoder.disp.exp().detach().numpy()[mean > 5]
    assert len(theta) > 30 and abs(np.median(theta) - 5) < 1


def test_held_out_cells_say_nothing():
    """The start is that of a model which has the training cells only, whatever the others hold."""
    adata = hp.datasets.planted_contexts(300, 40, fields={"condition": 1}, n_types=1, seed=0)
    train = np.random.default_rng(0).choice(300, 250, replace=False)
    held_out = np.setdiff1d(np.arange(300), train)
    adata.X = adata.X.toarray()
    adata.X[held_out] = adata.X[held_out, ::-1] * 7
    starts = []
    for cells in (adata, adata[np.sort(train)].copy()):
        hp.IVAE.setup_anndata(cells)
        model = hp.IVAE(cells, n_hidden=8, n_latent=3)
        start_from_counts(model, train if cells is adata else np.arange(250))
        decoder = model.module.vae.decoder
        starts.append((decoder.nn[-2].bias.detach(), decoder.disp.detach()))
    for found, alone in zip(*starts, strict=True):
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)


def test_training_starts_from_the_cells_it_learns_from(monkeypatch):
    adata = hp.datasets.planted_contexts(120, 30, fields={"condition": 2}, seed=0)
    hp.IVAE.setup_anndata(adata)
    model, given = hp.IVAE(adata, n_hidden=8, n_latent=3), []
    monkeypatch.setattr("hpvade.models.ivae._model.start_from_counts", lambda model, train: given.append(train))
    model.train(1, train_size=0.5, accelerator="cpu", enable_progress_bar=False)
    np.testing.assert_array_equal(np.sort(given[0]), np.sort(model.train_indices))
    assert len(given) == 1 and len(given[0]) == 60


def test_a_trained_model_goes_on_where_it_was():
    adata = hp.datasets.planted_contexts(120, 30, fields={"condition": 2}, seed=0)
    hp.IVAE.setup_anndata(adata)
    model = hp.IVAE(adata, n_hidden=8, n_latent=3)
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "plan_kwargs": {"lr": 1e-12}}
    model.train(1, **quiet)
    with torch.no_grad():
        model.module.vae.decoder.disp += 1
    before = model.module.vae.decoder.disp.clone()
    model.train(1, **quiet)
    torch.testing.assert_close(model.module.vae.decoder.disp, before)
