"""Training, embeddings, metrics and files: IV-05, IV-06, IV-08, IV-09, IV-12, IV-16, IV-17."""

import anndata as ad
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import hpvade as hp

MODES = ("train", "validation")
TERMS = ["reconstruction", "irecon", "kl", "dip", "tc", "info"]


def test_iv_05_the_bottleneck_changes_in_training(cells, embed, weights):
    torch.manual_seed(0)
    adata = cells()
    model = embed(adata, 1)
    model_again = hp.IVAE(adata)
    before = weights(model_again)
    model_again.train(2, accelerator="cpu", enable_progress_bar=False)
    for name, value in weights(model_again).items():
        assert not torch.equal(value, before[name]), name
    assert "vae.latent_encoder.weight" in before and model.is_trained_


def test_history_has_every_term_once_per_epoch(embedded):
    history = embedded.model.history
    expected = {f"{name}_{mode}" for name in [*TERMS, "elbo", "reconstruction_loss", "kl_local"] for mode in MODES}
    assert expected | {"train_loss", "validation_loss", "kl_weight"} <= history.keys()
    for name, frame in history.items():
        assert len(frame) == 60 and list(frame) == [name] and np.isfinite(frame.to_numpy(dtype=float)).all()
    weight = history["kl_weight"]["kl_weight"]
    assert weight.iloc[0] == 0 and (weight.iloc[6:] == 1).all() and 0 < weight.iloc[3] < 1
    # the validation loss is at the full KL weight from the first epoch on
    terms = {name: history[f"{name}_validation"].iloc[:, 0] for name in TERMS[:3]}
    np.testing.assert_allclose(history["validation_loss"].iloc[:, 0], sum(terms.values()), rtol=1e-4)
    assert terms["irecon"].iloc[-1] < terms["irecon"].iloc[0] and terms["kl"].iloc[-1] > 0


def test_training_writes_the_embeddings_and_getters_do_not(embedded, unchanged):
    model, adata = embedded.model, embedded.adata
    with unchanged(adata):
        latent, bottleneck = model.get_latent_representation(), model.get_bottleneck_representation()
        model.get_loadings(), model.get_metrics(), model.get_elbo(), model.get_normalized_expression()
    np.testing.assert_allclose(adata.obsm["X_ivae"], latent, atol=1e-6)
    np.testing.assert_allclose(adata.obsm["X_ivae_bottleneck"], bottleneck, atol=1e-6)
    assert latent.shape == (400, 10) and bottleneck.shape == (400, 2)


def test_iv_06_two_calls_are_identical_and_names_agree(embedded):
    model = embedded.model
    for one, two in (("get_latent_representation", "get_latent"), ("get_bottleneck_representation", "get_iembed")):
        first = getattr(model, one)()
        np.testing.assert_array_equal(first, getattr(model, one)())
        np.testing.assert_array_equal(first, getattr(model, two)())
        samples = [getattr(model, one)(give_mean=False) for _ in range(2)]
        assert np.abs(samples[0] - samples[1]).max() > 0.01
    assert not model.module.training


def test_iv_06_any_batch_size_and_order_of_indices(embedded):
    model, indices = embedded.model, np.random.default_rng(0).permutation(400)[:150]
    for get in (model.get_latent_representation, model.get_bottleneck_representation):
        every = get()
        for size in (1, 7, 1000):
            np.testing.assert_allclose(get(batch_size=size), every, atol=1e-5)
        np.testing.assert_allclose(get(indices=indices), every[indices], atol=1e-5)
        np.testing.assert_allclose(get(None, indices, True, 11), every[indices], atol=1e-5)


@pytest.mark.parametrize("layer", [None, "X", "counts"])
@pytest.mark.parametrize("kind", ["csr", "csc", "array", "dense", "backed"])
def test_iv_06_same_for_every_kind_of_matrix(embedded, cells, tmp_path, layer, kind):
    """A model for each kind and layer, with the weights of one trained model."""
    adata = cells()
    X = adata.X.copy()
    X = {"csc": sparse.csc_matrix, "array": sparse.csr_array, "dense": lambda X: X.toarray()}.get(kind, lambda X: X)(X)
    if layer == "counts":
        adata.layers["counts"], adata.X = X, np.zeros(adata.shape, dtype=np.float32)
    else:
        adata.X = X
    if kind == "backed":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    hp.IVAE.setup_anndata(adata, layer=layer, labels_key="cell_type", batch_key="batch")
    model = hp.IVAE(adata)
    model.module.load_state_dict(embedded.model.module.state_dict())
    model.is_trained_ = True
    model.module.eval()
    indices = [300, 7, 350, 7, 2]
    for name in ("get_latent_representation", "get_bottleneck_representation"):
        expected = getattr(embedded.model, name)()
        np.testing.assert_allclose(getattr(model, name)(), expected, atol=1e-5)
        np.testing.assert_allclose(getattr(model, name)(indices=indices), expected[indices], atol=1e-5)
        np.testing.assert_allclose(getattr(model, name)(indices=indices, batch_size=2), expected[indices], atol=1e-5)


@pytest.mark.parametrize("n", [2, 50])
def test_iv_06_few_cells(cells, embed, n):
    few = cells()[:n].copy()
    model = embed(few, 2, setup={})
    assert model.get_latent_representation().shape == (n, 10)
    assert model.get_bottleneck_representation().shape == (n, 2)
    np.testing.assert_array_equal(model.get_latent_representation(), model.get_latent_representation())


def knn(embedding, labels):
    return cross_val_score(KNeighborsClassifier(15), embedding, labels, cv=3).mean()


def test_iv_08_the_bottleneck_beats_random_projections(embedded, unread):
    labels = embedded.adata.obs["cell_type"].astype(str).to_numpy()
    trained = knn(embedded.model.get_bottleneck_representation(), labels)
    latent, rng = embedded.model.get_latent_representation(), np.random.default_rng(0)
    random = [knn(latent @ rng.normal(size=(10, 2)), labels) for _ in range(9)]
    # what `irecon=0` leaves: an untrained linear map, which the model refuses to give
    net = unread.model.module.vae.latent_encoder
    with torch.inference_mode():
        untrained = knn(net(torch.as_tensor(unread.model.get_latent_representation())).numpy(), labels)
    assert trained > np.median(random) and trained > untrained and trained > 0.6


def test_irecon_zero_refuses_what_stands_on_the_bottleneck(unread):
    model = unread.model
    for call in (
        model.get_bottleneck_representation,
        model.get_iembed,
        model.get_loadings,
        lambda: model.get_normalized_expression(from_bottleneck=True),
    ):
        with pytest.raises(RuntimeError, match="bottleneck was not trained, because irecon is 0"):
            call()
    assert "X_ivae" in unread.adata.obsm and "X_ivae_bottleneck" not in unread.adata.obsm
    assert "irecon_train" not in model.history


def test_loadings_are_genes_by_axes(embedded):
    model = embedded.model
    table = model.get_loadings()
    assert list(table.index) == list(embedded.adata.var_names)
    assert list(table.columns) == ["bottleneck_0", "bottleneck_1"]
    parts = [model.get_loadings(indices=np.arange(400) % 2 == i) for i in range(2)]
    np.testing.assert_allclose(table, (parts[0] + parts[1]) / 2, rtol=1e-4, atol=1e-7)
    # proportions sum to one before and after a step
    one = model.get_loadings(indices=[17])
    proportions = model.get_normalized_expression(indices=[17], from_bottleneck=True).iloc[0]
    np.testing.assert_allclose(one.T @ proportions, 0, atol=1e-5)
    assert one.abs().to_numpy().max() > 0.01


def test_iv_09_metrics(embedded):
    model = embedded.model
    found = model.get_metrics()
    assert list(found.index) == ["ARI", "NMI", "ASW", "C_H", "D_B", "P_C"] and found.name == "6 given labels"
    labels = embedded.adata.obs["cell_type"].astype(str).to_numpy()
    partition = KMeans(6, n_init=10, random_state=0).fit_predict(model.get_latent_representation())
    assert found["ARI"] == pytest.approx(adjusted_rand_score(labels, partition), abs=1e-9)
    np.testing.assert_allclose(model.get_metrics(labels), found)
    np.testing.assert_allclose(model.get_metrics("cell_type", seed=0, sample=None), found)
    other = model.get_metrics("donor")
    assert other["ARI"] < found["ARI"]
    small = model.get_metrics(sample=100, seed=3)
    np.testing.assert_array_equal(small, model.get_metrics(sample=100, seed=3))
    assert not np.allclose(small, found)
    with pytest.raises(KeyError, match="'type' is not a column"):
        model.get_metrics("type")
    for labels, message in (
        (["a"] * 400, "there are 1 labels"),
        (["a"] * 3, "there are 3 labels"),
        ([None] + ["a"] * 399, "1 of them missing"),
    ):
        with pytest.raises(ValueError, match=message):
            model.get_metrics(labels)


def test_metrics_without_labels_say_so(cells, embed):
    found = embed(cells(), 1, setup={}).get_metrics()
    assert list(found.index) == ["C_H", "D_B", "P_C"]
    assert found.name == "KMeans partition of the latent (10 clusters); no labels were given"


def test_iv_12_saved_model_gives_the_same(embedded, cells, tmp_path):
    model = embedded.model
    model.save(tmp_path / "model")
    loaded = hp.IVAE.load(tmp_path / "model", cells())
    bare = hp.IVAE.load(tmp_path / "model", adata=False)
    for name in ("get_latent_representation", "get_bottleneck_representation"):
        np.testing.assert_array_equal(getattr(loaded, name)(), getattr(model, name)())
        np.testing.assert_array_equal(getattr(bare, name)(cells()), getattr(model, name)())
    assert loaded.history.keys() == model.history.keys() and repr(loaded) == repr(model)
    np.testing.assert_array_equal(loaded.get_loadings(), model.get_loadings())
    np.testing.assert_allclose(loaded.get_metrics(), model.get_metrics())


def test_saved_options_and_older_names(cells, embed, tmp_path):
    model = embed(cells(), 1, hidden_dim=16, latent_dim=4, i_dim=3, tc=0.5)
    model.save(tmp_path / "model")
    loaded = hp.IVAE.load(tmp_path / "model", adata=False)
    assert loaded.module.weights == model.module.weights and loaded.module.weights["tc"] == 0.5
    assert loaded.get_bottleneck_representation(cells()).shape == (400, 3)


def test_iv_12_same_seed_same_result(cells, embed, weights):
    first, same, other = (weights(embed(cells(), 3, seed, info=1.0, tc=1.0)) for seed in (4, 4, 5))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_same_seed_same_result_on_two_threads(cells, embed, weights):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, same = (weights(embed(cells(), 2, 4, setup={"batch_key": "batch"})) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[name], same[name]) for name in first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_iv_12_gpu_agrees(embedded):
    model = embedded.model
    expected = model.get_latent_representation(), model.get_bottleneck_representation(), model.get_loadings()
    try:
        model.to_device("cuda:0")
        found = model.get_latent_representation(), model.get_bottleneck_representation(), model.get_loadings()
    finally:
        model.to_device("cpu")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_iv_16_beta_trades_the_kl_for_reconstruction(cells, embed):
    values = {}
    for beta in (1.0, 0.01):
        model = embed(cells(), 25, 1, beta=beta, train={"plan_kwargs": {"lr": 5e-3}})
        held_out = model.validation_indices
        mean, variance = model.get_latent_representation(indices=held_out, return_dist=True)
        kl = (-np.log(variance) / 2 + (variance + mean**2) / 2 - 0.5).sum(axis=1).mean()
        torch.manual_seed(0)
        values[beta] = kl, float(model.get_reconstruction_error(indices=held_out)["reconstruction_loss"])
    assert values[0.01][0] > 2 * values[1.0][0]
    assert values[0.01][1] < values[1.0][1]


def test_iv_17_tensorboard_receives_every_term(cells, embed, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="run")
    embed(cells(), 2, train={"logger": logger, "log_every_n_steps": 1})
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    expected = {f"{name}_{mode}" for name in TERMS for mode in MODES} | {"train_loss", "validation_loss", "kl_weight"}
    assert expected <= set(events.Tags()["scalars"])


def test_early_stopping_on_the_elbo_and_best_weights(cells, embed):
    model = embed(
        cells(), 200, train={"early_stopping": True, "early_stopping_patience": 3, "plan_kwargs": {"lr": 0.02}}
    )
    elbo = model.history["elbo_validation"]["elbo_validation"]
    assert len(elbo) < 200 and elbo.idxmin() <= len(elbo) - 4
    best = model.history["validation_loss"]["validation_loss"]
    torch.manual_seed(0)
    again = float(-model.get_elbo(indices=model.validation_indices))
    assert again == pytest.approx(elbo[best.idxmin()], rel=0.02)


def test_training_goes_on_with_the_same_split(cells, embed):
    model = embed(cells(), 2)
    split, n_steps = model.train_indices, len(model.history["train_loss"])
    model.train(3, accelerator="cpu", enable_progress_bar=False)
    np.testing.assert_array_equal(model.train_indices, split)
    assert n_steps == 2 and len(model.history["train_loss"]) == 5


def test_checkpoints_resume(cells, embed, tmp_path):
    model = embed(cells(), 2, train={"checkpoint_dir": str(tmp_path)})
    assert {"last.ckpt", "best.ckpt"} <= {path.name for path in tmp_path.iterdir()}
    split = model.train_indices
    again = hp.IVAE(model.adata)
    again.train(4, accelerator="cpu", enable_progress_bar=False, ckpt_path=str(tmp_path / "last.ckpt"))
    np.testing.assert_array_equal(again.train_indices, split)
    assert list(again.history["train_loss"].index) == [0, 1, 2, 3]


def test_a_loss_that_is_not_finite_is_named_and_the_weights_stay(cells, embed, weights):
    model = embed(cells(), 1)
    before = weights(model)
    with pytest.raises(RuntimeError, match="Loss term 'reconstruction' is not finite at step"):
        model.train(3, accelerator="cpu", enable_progress_bar=False, plan_kwargs={"lr": 1e20})
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_unknown_options_are_named_before_any_work(cells):
    adata = cells()
    hp.IVAE.setup_anndata(adata)
    model = hp.IVAE(adata)
    for options, message in (
        ({"plan_kwargs": {"lrr": 1}}, "plan_kwargs got unknown options"),
        ({"max_epoch": 1}, r"train\(\) got unknown options"),
    ):
        with pytest.raises(TypeError, match=message):
            model.train(**options)
    with pytest.raises(ValueError, match="early_stopping=True needs validation cells"):
        model.train(1, train_size=1.0, early_stopping=True, accelerator="cpu")
    with pytest.raises(ValueError, match="batch_size=0"):
        model.train(1, batch_size=0)
    assert not model.is_trained_


def test_number_of_epochs_follows_from_a_budget_of_steps(cells, embed, monkeypatch):
    from hpvade.models._training import Budget

    monkeypatch.setattr(hp.IVAE, "_budget", Budget(steps=45, least=10, most=400))
    model = embed(cells(), None)  # 3 minibatches per epoch
    assert len(model.history["train_loss"]) == 15
