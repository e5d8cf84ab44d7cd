"""CA-21: what cannot work is refused with the remedy, and nothing is changed or written."""

import pytest
import torch

import hpvade as hp
from hpvade.models.cycleae._fit import loss_weights

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"age": 3}, "context names the field 'age'; the model has condition, tissue, sex"),
        ({"sex": "other"}, r"context\['sex'\]='other' is no category of this field; known values: 'sex_0', 'sex_1'"),
        ({"sex": ["sex_0"]}, "has 1 values for 600 cells"),
    ],
)
def test_ca_21_unknown_contexts_are_named(cycle, context, message):
    with pytest.raises(ValueError, match=message):
        cycle.model.get_counterfactual_expression(context=context)


def test_ca_21_new_cells_with_unknown_values_genes_or_numbers(cycle):
    other = cycle.adata[:20].copy()
    other.obs["tissue"] = "moon"
    with pytest.raises(
        ValueError, match="'tissue' holds 'moon', which the model does not know; known values: 'tissue_0'"
    ):
        cycle.model.get_head_logits(other)
    with pytest.raises(ValueError, match="genes of the model in another order"):
        cycle.model.get_head_logits(cycle.adata[:20, ::-1].copy())
    lacking = cycle.adata[:20].copy()
    lacking.obs["sex"] = None
    with pytest.raises(ValueError, match="'sex' is missing for 20 of 20 cells, and the model has seen no such cell"):
        cycle.model.get_head_logits(lacking)
    broken = cycle.adata[:20].copy()
    broken.X = -broken.X
    with pytest.raises(ValueError, match="negative value"):
        cycle.model.get_head_logits(broken)


def test_options_and_untrained_models(cells, cycle):
    adata = cells(n_cells=50, n_genes=30)
    hp.CycleAE.setup_anndata(adata, "sex")
    for options, message in (
        ({"activation": "tanh"}, "activation='tanh'"),
        ({"scale": "cpm"}, "scale='cpm'"),
        ({"start": "zero"}, "start='zero'"),
        ({"head_scale": -1}, "head_scale=-1"),
        ({"n_latent": 0}, "n_latent=0"),
    ):
        with pytest.raises(ValueError, match=message):
            hp.CycleAE(adata, **options)
    model = hp.CycleAE(adata, n_latent=4)
    with pytest.raises(RuntimeError, match="not trained"):
        model.get_context_effects()
    with pytest.raises(RuntimeError, match="not trained"):
        model.get_head_logits()
    for options, error in (
        ({"max_epochs": 0}, ValueError),
        ({"learning_rate": 0}, ValueError),
        ({"loss_weights": {"gan": 1}}, ValueError),
        ({"split_by": "donor"}, KeyError),
        ({"gradient_clip": 1}, TypeError),
        ({"ckpt_path": "nowhere.ckpt"}, FileNotFoundError),
    ):
        with pytest.raises(error):
            model.train(**options, **QUIET)
    assert not model.is_trained_
    with pytest.raises(ValueError, match="`to` names no field"):
        cycle.model.translate_reference(to={})
    with pytest.raises(ValueError, match="field='age' is unknown"):
        cycle.model.get_context_effects("age")


def test_loss_weights_are_checked_and_completed():
    assert loss_weights({"recon": 2}) == {"recon": 2, "integ": 1, "target": 1, "identity": 1, "effect": 1}
    with pytest.raises(ValueError, match="expected a number that is not negative"):
        loss_weights({"recon": -1})
    with pytest.raises(ValueError, match="all zero"):
        loss_weights(dict.fromkeys(("recon", "integ", "target", "identity", "effect"), 0))


def test_ca_21_a_loss_that_is_not_finite_names_the_term_and_keeps_the_weights(cells, weights):
    import lightning.pytorch as lp

    class Break(lp.Callback):
        def on_train_epoch_start(self, trainer, plan):
            if trainer.current_epoch == 1:
                plan.module.generator.base.data.fill_(torch.nan)

    adata = cells(n_cells=100, n_genes=30)
    hp.CycleAE.setup_anndata(adata, ["sex"])
    model = hp.CycleAE(adata, n_latent=4)
    with pytest.raises(RuntimeError, match="Loss term 'recon' is not finite at step"):
        model.train(3, callbacks=[Break()], **QUIET)
    assert not model.is_trained_ and all(torch.isfinite(v).all() for v in weights(model).values())
