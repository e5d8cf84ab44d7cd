"""`tl.evaluate_perturbation` against a hand-made model whose answers are known."""

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp

PROFILE = {
    ("B", "control"): [10, 20, 30, 40], ("B", "drug"): [20, 20, 30, 30],
    ("T", "control"): [40, 30, 20, 10], ("T", "drug"): [50, 30, 10, 10],
}  # fmt: skip


def cells(pairs=PROFILE, n=12):
    obs = pd.DataFrame([pair for pair in pairs for _ in range(n)], columns=["type", "drug"]).rename(str)
    counts = np.repeat([pairs[pair] for pair in pairs], n, axis=0).astype(np.float32)
    return ad.AnnData(counts, obs=obs)


class Model:
    """Answers with the profile of (type, perturbation), or with a given one."""

    def __init__(self, answer=None):
        self.answer = answer or PROFILE

    def get_setup_arg(self, name):
        return {"labels_key": "type", "perturbation_key": "drug"}[name]

    def _control_name(self, given):
        return "control"

    def _require_data(self):
        return cells()

    def _read(self, adata, indices):
        import torch

        x = torch.from_numpy(np.asarray(adata.X))
        return SimpleNamespace(batches=lambda device, size: [SimpleNamespace(x=x, rows=np.arange(len(x)))])

    def get_counterfactual_expression(self, adata, *, indices, perturbation, library_size):
        rows = [self.answer[kind, perturbation] for kind in adata.obs["type"].iloc[indices]]
        return pd.DataFrame(np.asarray(rows, dtype=float) / 100 * library_size)


def test_a_perfect_model_and_the_baselines():
    held_out = {pair: PROFILE[pair] for pair in PROFILE if pair != ("T", "drug")}
    table = hp.tl.evaluate_perturbation(Model(), cells(), reference=cells(held_out)).set_index(
        ["cell_type", "predictor"]
    )
    for kind in ("B", "T"):
        assert table.loc[(kind, "model"), "rmse"] == pytest.approx(0, abs=1e-6)
        assert table.loc[(kind, "model"), ["r", "r2"]].tolist() == pytest.approx([1, 1])
    assert table.loc[("B", "mean shift"), "rmse"] == pytest.approx(0, abs=1e-6)  # its own response is in the reference
    assert table["in_reference"].tolist() == [True] * 4 + [False] * 4
    log = {pair: np.log1p(100 * np.array(values, dtype=float)) for pair, values in PROFILE.items()}
    shift, truth = log["B", "drug"] - log["B", "control"], log["T", "drug"] - log["T", "control"]
    found = table.loc[("T", "mean shift")]
    assert found["rmse"] == pytest.approx(np.sqrt(((shift - truth) ** 2).mean()), rel=1e-5)
    assert found["r"] == pytest.approx(np.corrcoef(shift, truth)[0, 1], rel=1e-5)
    assert table.loc[("T", "weighted shift"), "rmse"] == pytest.approx(
        found["rmse"]
    )  # one other type: nothing to weigh
    nothing = table.loc[("T", "no change")]
    assert nothing["rmse"] == pytest.approx(np.sqrt((truth**2).mean()), rel=1e-5)
    assert np.isnan(nothing["r"]) and nothing["r2"] <= 0


def test_the_weighted_shift_is_that_of_similar_types():
    profiles = PROFILE | {("X", "control"): [12, 20, 29, 39], ("X", "drug"): [5, 40, 30, 25]}
    reference = cells({pair: profiles[pair] for pair in profiles if pair != ("X", "drug")})
    table = hp.tl.evaluate_perturbation(Model(profiles), cells(profiles), reference=reference)
    found = table.set_index(["cell_type", "predictor"]).loc[("X", "weighted shift"), "rmse"]
    log = {pair: np.log1p(100 * np.array(values, dtype=float)) for pair, values in profiles.items()}
    weights = np.array([np.exp(4 * np.corrcoef(log["X", "control"], log[k, "control"])[0, 1]) for k in "BT"])
    shift = np.average([log[k, "drug"] - log[k, "control"] for k in "BT"], axis=0, weights=weights)
    truth = log["X", "drug"] - log["X", "control"]
    assert found == pytest.approx(np.sqrt(((shift - truth) ** 2).mean()), rel=1e-5)


def test_direction_accuracy():
    wrong = PROFILE | {("B", "drug"): [5, 20, 30, 45]}
    table = hp.tl.evaluate_perturbation(Model(wrong), cells()).set_index(["cell_type", "predictor"])
    assert table.loc[("B", "model"), "direction_accuracy"] == 0.5  # two of four genes do not respond


def test_too_few_cells():
    with pytest.raises(ValueError, match="13 perturbed and 13 control cells"):
        hp.tl.evaluate_perturbation(Model(), cells(), min_cells=13)
