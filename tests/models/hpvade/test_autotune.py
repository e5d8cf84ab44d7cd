"""`scvi.autotune` finds options of HPVADE: every trial is the training that its options describe."""

import pytest
import scvi

import hpvade as hp


@pytest.mark.slow
def test_two_trials_are_two_trainings(planted, tmp_path, monkeypatch):
    for name in ("ray", "hyperopt", "scib_metrics"):  # what scvi.autotune needs
        pytest.importorskip(name)
    from ray import tune
    from scvi.autotune import run_autotune

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    adata, _ = planted(n_cells=160)
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
    fixed = {"max_epochs": 2, "accelerator": "cpu"}
    found = run_autotune(
        hp.HPVADE,
        data=adata,
        metrics="validation_loss",
        mode="min",
        search_space={"model_params": {"n_latent": tune.grid_search([3, 6])}, "train_params": fixed},
        num_samples=1,
        seed=1,  # scvi takes 0 for none
        scheduler="fifo",
        searcher="random",
        resources={"cpu": 1},
        logging_dir=str(tmp_path),
    )
    trials = list(found.result_grid)
    assert len(trials) == 2 and not any(trial.error for trial in trials)
    for trial in trials:
        scvi.settings.seed = 1
        own, _ = planted(n_cells=160)
        hp.HPVADE.setup_anndata(own, labels_key="cell_type", sample_key="donor")
        model = hp.HPVADE(own, **trial.config["model_params"])
        model.train(**fixed, enable_progress_bar=False)
        expected = float(model.history["validation_loss"].iloc[-1, 0])
        assert trial.metrics["validation_loss"] == pytest.approx(expected, rel=1e-3)
