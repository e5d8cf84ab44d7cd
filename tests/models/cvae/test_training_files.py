import pytest

import hpvade as hp
from hpvade.models.cvae._checkpoint import read_checkpoint, write_checkpoint
from hpvade.models.cvae._training_files import TrainingFiles

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture
def model(cells):
    adata = cells(90)
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", perturbation_key="perturbation")
    return hp.ConditionalVAE(adata, n_latent=4, hidden_dims=(8,))


def test_checkpoints_every_few_epochs_and_the_best(model, tmp_path):
    files = TrainingFiles(tmp_path, model, every=2)
    model.train(5, callbacks=[files], early_stopping=False, **QUIET)
    names = {"best_model.pt", "checkpoint_epoch_2.pt", "checkpoint_epoch_4.pt", "tensorboard"}
    assert {path.name for path in tmp_path.iterdir()} == names
    best = read_checkpoint(tmp_path / "best_model.pt")
    losses = model.history["validation_loss"].iloc[:, 0].astype(float)
    assert (best["epoch"], best["val_loss"]) == (int(losses.idxmin()) + 1, pytest.approx(losses.min(), rel=1e-6))
    assert best["config"]["n_conditions"] == 0
    files.finish()
    assert read_checkpoint(tmp_path / "best_model.pt")["config"]["n_conditions"] == 9


def test_a_folder_used_twice_is_noticed(model, tmp_path):
    files = TrainingFiles(tmp_path, model)
    model.train(1, callbacks=[files], **QUIET)
    document = read_checkpoint(tmp_path / "best_model.pt")
    document["model_state_dict"]["output.bias"] += 1
    write_checkpoint(tmp_path / "best_model.pt", document)
    with pytest.raises(RuntimeError, match="used by another run"):
        files.finish()
