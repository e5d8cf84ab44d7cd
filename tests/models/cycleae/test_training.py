"""CycleAE.train: rows CA-01, CA-10, CA-12, CA-15, CA-19, CA-20."""

import lightning.pytorch as lp
import numpy as np
import pytest
import torch

from hpvade.models.cycleae._module import CycleModule, draw_targets

FIELDS = ["condition", "tissue", "sex"]


def test_ca_01_weights_stay_nonnegative_after_each_of_20_steps(cells, fit_cycle):
    seen = []

    class Watch(lp.Callback):
        def on_train_batch_end(self, trainer, plan, outputs, batch, batch_idx):
            weights = [p for n, p in plan.module.generator.named_parameters() if not n.endswith("log_scale")]
            seen.append(min(p.min().item() for p in weights))

    options = {"max_epochs": 5, "callbacks": [Watch()], "classifier_warmup_epochs": 0, "learning_rate": 1e-2}
    fit_cycle(cells(), nonnegative=True, start="uniform", train=options)
    assert len(seen) >= 20 and min(seen) == 0, "clamped, and touched the bound"


def test_ca_12_and_ca_19_classifier_and_generator_learn_apart(cells, fit_cycle):
    """The generator rests in the warm-up while accuracy rises; no gradient crosses in any step."""
    states, crossed, order = [], [], []

    class Watch(lp.Callback):
        def on_train_start(self, trainer, plan):
            states.append(plan.module.generator.base.detach().clone())
            for optimizer, own in zip(trainer.optimizers, ("generator", "classifier"), strict=True):
                other = {"generator": plan.module.classifier, "classifier": plan.module.generator}[own]
                optimizer.register_step_pre_hook(lambda *a, own=own, other=other: self.note(own, other))

        def note(self, own, other):
            order.append(own)
            if own == "generator":  # the classifier's gradient of the last step must be untouched by this backward
                crossed.append(any(p.requires_grad for p in other.parameters()))

        def on_train_epoch_end(self, trainer, plan):
            states.append(plan.module.generator.base.detach().clone())

    train = {
        "max_epochs": 8,
        "classifier_warmup_epochs": 2,
        "learning_rate": 3e-3,
        "batch_size": 64,
        "callbacks": [Watch()],
    }
    model = fit_cycle(cells(), train=train)
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2]), "warm-up"
    assert not torch.equal(states[2], states[3])
    assert order[:18] == ["classifier"] * 18 and order[-2:] == ["generator", "classifier"]
    assert crossed and not any(crossed), "the classifier is frozen in the generator step"
    accuracy = [model.history[f"classifier_acc_{field}_validation"].iloc[:, 0].astype(float) for field in FIELDS]
    assert sum(a.iloc[-1] - a.iloc[0] for a in accuracy) > 0.3


def test_history_holds_every_term_and_the_influence_of_every_head(cycle):
    expected = {f"{t}_{m}" for t in ("recon", "integ", "identity", "effect") for m in ("train", "validation")}
    expected |= {"train_loss", "validation_loss", "target_train", "target_validation", "classifier_loss_train"}
    expected |= {f"head_influence_{head}_validation" for head in ("base", *FIELDS)}
    expected |= {f"target_{f}_train" for f in FIELDS} | {f"classifier_acc_{f}_validation" for f in FIELDS}
    history = cycle.model.history
    assert expected <= history.keys()
    assert len(history["head_influence_sex_validation"]) == 12
    loss = history["validation_loss"]["validation_loss"].astype(float)
    assert loss.iloc[-1] < loss.iloc[0]


class StopAt(lp.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, plan):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("power cut")


def test_ca_10_a_resumed_run_equals_an_uninterrupted_one(cells, fit_cycle, tmp_path, weights):
    whole = fit_cycle(cells(), train={"max_epochs": 5})
    with pytest.raises(RuntimeError, match="power cut"):
        fit_cycle(cells(), train={"max_epochs": 5, "checkpoint_dir": tmp_path, "callbacks": [StopAt(3)]})
    resumed = fit_cycle(cells(), seed=77, train={"max_epochs": 5, "ckpt_path": tmp_path / "last.ckpt"})
    a, b = weights(whole), weights(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)
    np.testing.assert_array_equal(whole.validation_indices, resumed.validation_indices)


def test_validation_by_group_and_early_stopping(cells, fit_cycle):
    adata = cells(n_cells=300, n_genes=60)
    adata.obs["donor"] = [f"d{i % 5}" for i in range(300)]
    options = {"split_by": "donor", "train_size": 0.8, "early_stopping": True, "early_stopping_patience": 2}
    model = fit_cycle(adata, train=options | {"max_epochs": 60, "learning_rate": 0.5})
    groups = adata.obs["donor"].to_numpy()
    assert not set(groups[model.train_indices]) & set(groups[model.validation_indices])
    assert len(set(groups[model.validation_indices])) == 1
    assert len(model.history["validation_loss"]) < 60


def test_ca_15_tensorboard_holds_tags_figure_and_table(cells, fit_cycle, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="run")
    fit_cycle(cells(n_cells=200, n_genes=60), train={"logger": logger})
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()
    terms = ("recon", "integ", "target_mean", "aggreg")
    expected = {
        f"loss_{kind}/{period}_{t}" for kind in ("raw", "normed") for period in ("chunk", "epoch") for t in terms
    }
    expected |= {f"loss_raw/{p}_target_{f}" for f in FIELDS for p in ("chunk", "epoch")}
    expected |= {"loss_raw/chunk_classifier_loss", "loss_raw/epoch_classifier_loss"}
    expected |= {f"grad/chunk_gradient_norms/{s}" for s in ("mean", "min", "max")}
    assert expected <= set(tags["scalars"]), expected - set(tags["scalars"])
    assert "metadata/head_influence_l2" in tags["images"]
    assert "metadata/head_influence_l2_stats/text_summary" in tags["tensors"]
    text = events.Tensors("metadata/head_influence_l2_stats/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("| head | mean | min | max |") and "| tissue |" in text


def test_ca_20_memory_hardly_grows_with_fields():
    """Bytes that a training step keeps for its gradient, weights aside."""

    def kept(n):
        options = {
            "n_latent": 16,
            "activation": "linear",
            "scale": "log1p",
            "head_scale": "learned",
            "nonnegative": True,
        }
        module = CycleModule(4000, [f"f{i}" for i in range(n)], [3] * n, [False] * n, classifier_hidden=8, **options)
        x, source = torch.rand(256, 4000), torch.zeros(256, n, dtype=torch.long)
        target = draw_targets(source, module.n_categories, torch.Generator())
        weights, found = {p.untyped_storage().data_ptr() for p in module.parameters()}, {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            terms, _ = module.generator_terms(x, source, target, partial=target, shift=torch.zeros_like(x))
        assert sum(terms.values()).requires_grad
        return sum(size for size, _ in found.values())

    four, eight = kept(4), kept(8)
    assert four > 256 * 4000 * 4 and eight < 1.5 * four, (four, eight)
