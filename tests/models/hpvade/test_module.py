"""HP_VADE, the literal face: spec 2.2 and 3.1, against formulas written out in NumPy and in plain torch."""

import inspect

import lightning.pytorch as lp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from hpvade.models.hpvade._module import HP_VADE

G, D, K = 20, 4, 3
PARTS = {"sc/loss_recon", "sc/loss_kl", "sc/loss_proto", "bulk/loss_prop", "bulk/loss_recon"}
TRAIN_KEYS = {"train_loss"} | PARTS
VAL_KEYS = {"val_loss"} | {f"val_{name}" for name in PARTS}
FIVE_LOSSES = [1.2922268, 1.2715478, 1.2505938, 1.1495122, 1.1504426]  # from plain_torch_losses(20, make_batch(), 5)


def make_batch(seed=0, n_cells=12, n_bulk=8):
    """Cells and bulk in [0, 1]; different numbers of rows, and proportions with exact zeros."""
    rng = np.random.default_rng(seed)
    proportions = rng.dirichlet(np.ones(K), n_bulk)
    proportions[0] = np.eye(K)[1]
    return {
        "sc_data": torch.tensor(rng.random((n_cells, G)), dtype=torch.float32),
        "sc_label": torch.tensor(rng.integers(K, size=n_cells)),
        "bulk_data": torch.tensor(rng.random((n_bulk, G)), dtype=torch.float32),
        "bulk_prop": torch.tensor(proportions, dtype=torch.float32),
    }


def make_model(seed=0, **options):
    torch.manual_seed(seed)
    return HP_VADE(G, D, K, **options)


def fit(model, train, val=None, **trainer_args):
    """Train on ready-made batches, without files or output unless asked for."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lp.Trainer(**({"accelerator": "cpu", "max_epochs": 1, "logger": False} | quiet | trainer_args))
    val = None if val is None else DataLoader(val, batch_size=None)
    trainer.fit(model, DataLoader(train, batch_size=None), val)
    return trainer


def test_hp02_signature_and_hyperparameters():
    parameters = list(inspect.signature(HP_VADE).parameters.values())
    empty = inspect.Parameter.empty
    positional = {"input_dim": empty, "latent_dim": empty, "n_cell_types": empty, "n_hidden": 128, "lambda_proto": 1.0}
    positional |= {"lambda_bulk_recon": 0.5, "lambda_bulk": 1.0, "lambda_kl": 0.1, "learning_rate": 1e-3}
    keyword = {"prop_loss": "kl", "recon_loss": "mse", "prop_log": "probs", "input_norm": None}
    keyword |= {"signature": "free", "on_nonfinite": "raise"}
    assert [(p.name, p.default) for p in parameters] == list((positional | keyword).items())
    assert [p.kind for p in parameters] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 9 + [
        inspect.Parameter.KEYWORD_ONLY
    ] * 6
    given = {"input_dim": G, "latent_dim": D, "n_cell_types": K, "lambda_kl": 0.3}
    assert dict(HP_VADE(G, D, K, lambda_kl=0.3).hparams) == positional | keyword | given


def test_hp02_signature_matrix_and_forward():
    model, bulk = make_model(), make_batch()["bulk_data"]
    assert isinstance(model.S, nn.Parameter) and model.S.shape == (G, K)
    assert any(p is model.S for p in model.parameters())
    bound = np.sqrt(6 / (G + K))
    assert 0.8 * bound < model.S.abs().max() <= bound
    assert torch.equal(model(bulk), model.deconv_net(bulk))
    assert torch.equal(model.deconvolve(bulk), model(bulk)) and not model.deconvolve(bulk).requires_grad
    np.testing.assert_array_equal(model.get_signature_matrix(), model.S.detach().numpy())
    assert not list(model.buffers())
    optimizer = model.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam and optimizer.defaults["lr"] == 1e-3
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


def numpy_losses(model, batch):
    """The literal terms of spec 3.1 in eval mode."""
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    x, y, b, truth = (batch[k].double().numpy() for k in ("sc_data", "sc_label", "bulk_data", "bulk_prop"))

    def mlp(name, a):
        hidden = np.maximum(a @ w[f"{name}.mlp.0.weight"].T + w[f"{name}.mlp.0.bias"], 0)
        return hidden @ w[f"{name}.mlp.2.weight"].T + w[f"{name}.mlp.2.bias"]

    mu, logvar = np.split(mlp("encoder", x), 2, axis=1)
    x_hat, S = mlp("decoder", mu), w["S"]
    p = np.exp(mlp("deconv_net", b))
    p /= p.sum(axis=1, keepdims=True)
    log_ratio = np.log(np.where(truth > 0, truth, 1)) - np.log(p)
    return {
        "sc/loss_recon": np.mean((x_hat - x) ** 2),
        "sc/loss_kl": np.mean(-0.5 * np.sum(1 + logvar - mu**2 - np.exp(logvar), axis=1)),
        "sc/loss_proto": np.mean((x_hat - S.T[y.astype(int)]) ** 2),
        "bulk/loss_prop": np.mean(np.sum(truth * log_ratio, axis=1)),
        "bulk/loss_recon": np.mean((p @ S.T - b) ** 2),
    }


def test_hp03_loss_terms_equal_numpy():
    model, batch = (
        make_model(lambda_proto=0.7, lambda_bulk_recon=0.3, lambda_bulk=2.0, lambda_kl=0.2).eval(),
        make_batch(),
    )
    losses, expected = {k: v.item() for k, v in model.losses(batch).items()}, numpy_losses(model, batch)
    recon, kl, proto, prop, bulk_recon = expected.values()
    expected["total"] = recon + 0.2 * kl + 0.7 * proto + 2.0 * (prop + 0.3 * bulk_recon)
    assert losses.keys() == expected.keys()
    assert losses == pytest.approx(expected, abs=1e-6, rel=0)


@pytest.mark.parametrize("name", ["lambda_proto", "lambda_bulk_recon", "lambda_bulk", "lambda_kl"])
def test_hp03_one_lambda_changes_only_its_share(name):
    batch = make_batch()
    base, changed = (make_model(**option).eval() for option in ({}, {name: 3.0}))
    before, after = base.losses(batch), changed.losses(batch)
    assert all(torch.equal(before[part], after[part]) for part in PARTS)
    share = {
        "lambda_proto": before["sc/loss_proto"],
        "lambda_bulk_recon": before["bulk/loss_recon"],
        "lambda_bulk": before["bulk/loss_prop"] + 0.5 * before["bulk/loss_recon"],
        "lambda_kl": before["sc/loss_kl"],
    }[name]
    torch.testing.assert_close(after["total"] - before["total"], (3.0 - base.hparams[name]) * share)


def test_hp04_reparameterize():
    model = make_model()
    mu = torch.tensor([[1.0, -2.0, 0.5]]).expand(100_000, 3)
    logvar = torch.tensor([[-1.0, 0.0, -2.0]]).expand(100_000, 3)
    z = model.train().reparameterize(mu, logvar)
    torch.testing.assert_close(z.mean(dim=0), mu[0], rtol=0.01, atol=0)
    torch.testing.assert_close(z.std(dim=0), torch.exp(0.5 * logvar[0]), rtol=0.01, atol=0)
    assert model.eval().reparameterize(mu, logvar) is mu


def test_hp05_logged_keys_are_exactly_the_specified():
    model, batch = make_model(), make_batch()
    trainer = fit(model, [batch, batch], [batch])
    assert set(trainer.callback_metrics) == set(trainer.logged_metrics) == TRAIN_KEYS | VAL_KEYS
    assert set(trainer.progress_bar_metrics) == {"train_loss"}
    expected = {f"val_{k}": v for k, v in model.eval().losses(batch).items() if k != "total"}
    for name, value in expected.items():
        torch.testing.assert_close(trainer.callback_metrics[name], value)


class EvalSteps(lp.Callback):
    """Puts the model in eval mode before each training batch and keeps what the step logs."""

    def on_train_batch_start(self, trainer, pl_module, *_):
        pl_module.eval()

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.loss = outputs["loss"]


def test_hp05_validation_step_equals_training_step_in_eval_mode():
    model, batch, callback = make_model(learning_rate=0.0), make_batch(), EvalSteps()
    metrics = fit(model, [batch], [batch], callbacks=[callback]).callback_metrics
    for name in PARTS:
        assert torch.equal(metrics[name], metrics[f"val_{name}"])
    assert torch.equal(metrics["train_loss"], metrics["val_loss"]) and torch.equal(metrics["val_loss"], callback.loss)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_hp05_hp26_labels_that_are_not_long_are_refused(dtype):
    batch = make_batch()
    batch["sc_label"] = batch["sc_label"].to(dtype)
    for train, val in (([batch], None), ([make_batch()], [batch])):
        with pytest.raises(TypeError, match="'sc_label'.*expected torch.int64"):
            fit(make_model(), train, val)


def test_missing_category_is_no_label():
    batch = make_batch()
    batch["sc_label"][0] = -1
    with pytest.raises(IndexError):
        make_model().losses(batch)


def test_hp06_logits_equal_probs_when_finite():
    batch = make_batch()
    probs, logits = (make_model(prop_log=choice).eval().losses(batch) for choice in ("probs", "logits"))
    assert all(value.isfinite() for value in probs.values())
    for name, value in probs.items():
        torch.testing.assert_close(logits[name], value, atol=1e-6, rtol=0)


def test_hp06_logits_stay_finite_for_200_steps_on_counts_times_1e5():
    batch = make_batch()
    counts = batch | {key: torch.round(1e5 * batch[key] * 50) for key in ("sc_data", "bulk_data")}
    with pytest.raises(RuntimeError, match="'bulk/loss_prop'.*step 0"):
        fit(make_model(), [counts | {"sc_data": batch["sc_data"]}])  # the softmax underflows
    assert make_model(prop_log="logits").losses(counts)["bulk/loss_prop"].isfinite()
    model = make_model(prop_log="logits", input_norm="zscore")
    model.fit_normalization(counts["sc_data"], counts["bulk_data"])
    trainer = fit(model, [counts] * 200)
    assert trainer.global_step == 200
    assert all(value.isfinite() for value in trainer.callback_metrics.values())


def test_hp06_zero_proportions_are_finite_and_have_gradients():
    batch = make_batch() | {"bulk_prop": torch.eye(K)[torch.arange(8) % K]}
    model = make_model()
    total = model.losses(batch)["total"]
    total.backward()
    assert total.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("key", ["sc_data", "bulk_data", "bulk_prop"])
def test_hp14_nan_raises_and_no_nan_checkpoint_is_written(tmp_path, key):
    bad = make_batch()
    bad[key][0, 0] = torch.nan
    term = "sc/loss_recon" if key == "sc_data" else "bulk/loss_prop"
    checkpoint = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    model = make_model()
    with pytest.raises(RuntimeError, match=f"'{term}' is nan at step 2"):
        fit(model, [make_batch(), make_batch(), bad], callbacks=[checkpoint], enable_checkpointing=True)
    written = sorted(tmp_path.glob("*.ckpt"))
    assert [path.name for path in written] == ["step=1.ckpt", "step=2.ckpt"]
    last = HP_VADE.load_from_checkpoint(written[-1])
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all() and torch.equal(parameter, last.get_parameter(name))


def test_hp14_nan_gradient_of_a_finite_loss_writes_no_checkpoint(tmp_path):
    model, path = make_model(), tmp_path / "checkpoints"
    model.S.register_hook(lambda gradient: gradient * torch.nan)
    checkpoint = ModelCheckpoint(path, every_n_train_steps=1, save_top_k=-1)
    with pytest.raises(RuntimeError, match="'S' is not finite at step 1"):
        fit(model, [make_batch()], callbacks=[checkpoint], enable_checkpointing=True)
    assert not list(path.glob("*.ckpt"))


def test_on_nonfinite_ignore_returns_what_the_formula_gives():
    bad = make_batch()
    bad["sc_data"][0, 0] = torch.nan
    trainer = fit(make_model(on_nonfinite="ignore"), [bad])
    assert trainer.callback_metrics["train_loss"].isnan() and trainer.callback_metrics["bulk/loss_prop"].isfinite()


def plain_torch_losses(seed, batch, n_steps):
    """The literal training loop without any class of ours."""
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(G, 128), nn.ReLU(), nn.Linear(128, 2 * D))
    decoder = nn.Sequential(nn.Linear(D, 128), nn.ReLU(), nn.Linear(128, G))
    network = nn.Sequential(nn.Linear(G, 128), nn.ReLU(), nn.Linear(128, K), nn.Softmax(dim=1))
    S = nn.Parameter(nn.init.xavier_uniform_(torch.empty(G, K)))
    adam = torch.optim.Adam([S, *encoder.parameters(), *decoder.parameters(), *network.parameters()], lr=1e-3)
    x, y, b, truth = batch.values()
    totals = []
    for _ in range(n_steps):
        h = encoder(x)
        mu, logvar = h[:, :D], h[:, D:]
        x_hat = decoder(mu + torch.randn_like(mu) * torch.exp(0.5 * logvar))
        kl = torch.mean(-0.5 * torch.sum(1 + logvar - mu**2 - torch.exp(logvar), dim=1))
        sc = torch.mean((x_hat - x) ** 2) + 0.1 * kl + 1.0 * torch.mean((x_hat - S.T[y]) ** 2)
        p = network(b)
        prop = F.kl_div(torch.log(p), truth, reduction="batchmean")
        total = sc + 1.0 * (prop + 0.5 * torch.mean((p @ S.T - b) ** 2))
        adam.zero_grad()
        total.backward()
        adam.step()
        totals.append(total.item())
    return totals


def test_hp20_five_adam_steps_reproduce_stored_losses():
    batch, model = make_batch(), make_model(seed=20)
    adam, totals = model.configure_optimizers(), []
    for _ in range(5):
        total = model.losses(batch)["total"]
        adam.zero_grad()
        total.backward()
        adam.step()
        totals.append(total.item())
    assert totals == pytest.approx(FIVE_LOSSES, abs=1e-5, rel=0)
    assert totals == pytest.approx(plain_torch_losses(20, batch, 5), abs=1e-6, rel=0)


def test_hp22_tensorboard_receives_every_key(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    fit(make_model(), [make_batch()] * 3, [make_batch()], logger=logger, log_every_n_steps=1)
    events = EventAccumulator(logger.log_dir).Reload()
    assert set(events.Tags()["scalars"]) - {"epoch", "hp_metric"} == TRAIN_KEYS | VAL_KEYS
    assert len(events.Scalars("train_loss")) == 3 and len(events.Scalars("val_loss")) == 1


def test_hp23_trains_in_a_lightning_trainer_on_a_dict_loader():
    batch = make_batch(n_cells=64, n_bulk=64)
    rows = [{key: value[i] for key, value in batch.items()} for i in range(64)]
    torch.manual_seed(0)
    loader, model = DataLoader(rows, batch_size=16, shuffle=True), make_model()
    before = {name: value.item() for name, value in model.eval().losses(batch).items()}
    model.train()
    trainer = lp.Trainer(
        accelerator="cpu",
        max_epochs=20,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    after = {name: value.item() for name, value in model.eval().losses(batch).items()}
    assert after["total"] < 0.8 * before["total"]
    assert after["sc/loss_recon"] < before["sc/loss_recon"] and after["bulk/loss_prop"] < before["bulk/loss_prop"]


@pytest.mark.parametrize("option", ["prop_loss", "recon_loss", "prop_log", "input_norm", "signature", "on_nonfinite"])
def test_unknown_option_lists_the_choices(option):
    with pytest.raises(ValueError, match=rf"{option}='best' is unknown; choose one of \("):
        make_model(**{option: "best"})


def test_prop_loss_mse_and_positive_signature():
    model, batch = make_model(prop_loss="mse", signature="positive").eval(), make_batch()
    losses, p = model.losses(batch), model(batch["bulk_data"])
    S = np.log1p(np.exp(model.S.detach().numpy()))
    np.testing.assert_allclose(model.get_signature_matrix(), S, atol=1e-6)
    assert model.S.min() < 0 < model.get_signature_matrix().min()
    torch.testing.assert_close(losses["bulk/loss_prop"], ((p - batch["bulk_prop"]) ** 2).mean())
    expected = ((p.detach().numpy() @ S.T - batch["bulk_data"].numpy()) ** 2).mean()
    assert losses["bulk/loss_recon"].item() == pytest.approx(expected, abs=1e-6)


def test_recon_loss_bce():
    model, batch = make_model(recon_loss="bce").eval(), make_batch()
    x, losses = batch["sc_data"], model.losses(batch)
    x_hat = model.decode(model.encode(x)[0])
    assert x_hat.min() > 0 and x_hat.max() < 1
    torch.testing.assert_close(losses["sc/loss_recon"], -(x * x_hat.log() + (1 - x) * (1 - x_hat).log()).mean())
    torch.testing.assert_close(losses["sc/loss_proto"], ((x_hat - model.S.T[batch["sc_label"]]) ** 2).mean())
    batch["sc_data"][2, 3] = 1.5
    with pytest.raises(ValueError, match=r"\[0, 1\], found .* to 1.5"):
        model.losses(batch)


def test_zscore_standardises_inputs_only_and_survives_a_checkpoint(tmp_path):
    batch, plain, model = make_batch(), make_model().eval(), make_model(input_norm="zscore").eval()
    with pytest.raises(RuntimeError, match="call fit_normalization"):
        model.losses(batch)
    sc, bulk = 7 * batch["sc_data"] + 3, 0.2 * batch["bulk_data"]
    sc[:, 0] = 0.1  # a gene that does not vary
    model.fit_normalization(sc, bulk)
    z_sc = (sc - sc.mean(dim=0)) / sc.std(dim=0, correction=0)
    z_bulk = (bulk - bulk.mean(dim=0)) / bulk.std(dim=0, correction=0)
    z_sc[:, 0] = 0
    torch.testing.assert_close(model.encode(sc), plain.encoder(z_sc), atol=1e-5, rtol=0)
    torch.testing.assert_close(model(bulk), plain.deconv_net(z_bulk), atol=1e-5, rtol=0)
    losses, x_hat = model.losses(batch | {"sc_data": sc, "bulk_data": bulk}), plain.decoder(plain.encoder(z_sc)[0])
    torch.testing.assert_close(losses["sc/loss_recon"], ((x_hat - sc) ** 2).mean())
    torch.testing.assert_close(losses["bulk/loss_recon"], ((plain.deconv_net(z_bulk) @ plain.S.T - bulk) ** 2).mean())
    trainer = fit(model, [batch | {"sc_data": sc, "bulk_data": bulk}])
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert torch.equal(HP_VADE.load_from_checkpoint(tmp_path / "model.ckpt").eval()(bulk), model.eval()(bulk))


def test_fit_normalization_refuses_bad_data_and_writes_nothing():
    model, batch = make_model(input_norm="zscore"), make_batch()
    sc, bulk = batch["sc_data"], batch["bulk_data"]
    for bad in (torch.full((4, G), torch.inf), bulk[:, 1:], bulk[:0]):
        with pytest.raises(ValueError, match="bulk_data"):
            model.fit_normalization(sc, bad)
        assert model.cell_mean.isnan().all()
    with pytest.raises(ValueError, match="input_norm='zscore'"):
        make_model().fit_normalization(sc, bulk)
