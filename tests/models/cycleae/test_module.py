"""Loss terms against NumPy, contexts that are drawn, gradients that stay apart."""

import numpy as np
import pytest
import torch

from hpvade.models.cycleae._module import CycleModule, draw_targets, integration_loss, target_losses

SIZES = torch.tensor([2, 3, 5])


@pytest.fixture
def module():
    torch.manual_seed(0)
    options = {"n_latent": 4, "activation": "linear", "scale": "log1p", "head_scale": "learned", "nonnegative": True}
    module = CycleModule(20, ["a", "b.c", "d"], [2, 3, 5], [False, False, True], classifier_hidden=6, **options)
    module.generator.calibrate(torch.rand(8, 20), *[module.by_field(torch.zeros(8, 3, dtype=torch.long))] * 2)
    return module


def draw(n=400, seed=0):
    generator = torch.Generator().manual_seed(seed)
    source = torch.stack([torch.randint(int(c), (n,), generator=generator) for c in SIZES], dim=1)
    return source, draw_targets(source, SIZES, generator)


def test_ca_02_every_field_of_every_cell_changes_in_every_batch():
    for seed in range(20):
        source, target = draw(64, seed)
        assert (source != target).all(), "all fields, not only the last"
        assert (target >= 0).all() and (target < SIZES).all()


def test_ca_02_targets_are_uniform_over_the_others_and_independent_between_fields():
    source, target = draw(20_000)
    step = (target - source) % SIZES
    share = torch.bincount(step[:, 2], minlength=5)[1:] / len(step)
    np.testing.assert_allclose(share, 0.25, atol=0.015)
    joint = torch.bincount((step[:, 1] - 1) * 4 + step[:, 2] - 1, minlength=8) / len(step)
    np.testing.assert_allclose(joint, 1 / 8, atol=0.015)


def test_ca_02_missing_is_a_source_but_never_a_target():
    source = torch.tensor([[0, 3, -1]] * 500)
    target = draw_targets(source, SIZES, torch.Generator().manual_seed(0))
    assert set(target[:, 1].tolist()) == {0, 1, 2}  # from <missing> (code 3) to any category
    assert (target[:, 2] == -1).all()  # masked stays masked


def numpy_cross_entropy(logits, codes):
    logits = logits.astype(np.float64)
    norm = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return float(np.mean(norm - logits[np.arange(len(codes)), codes]))


def test_ca_12_terms_equal_numpy(module):
    torch.manual_seed(1)
    x, (source, target) = torch.rand(16, 20), draw(16)
    partial = torch.where(torch.rand(source.shape) < 0.5, source, target)
    shift = torch.randn(16, 20)
    with torch.no_grad():
        terms, targets = module.generator_terms(x, source, target, partial=partial, shift=shift)
        forward = module.generator
        there = forward(x, module.by_field(source), module.by_field(target))
        back = forward(there["X_st"], module.by_field(target), module.by_field(source))
        same = forward(x, module.by_field(source), module.by_field(source))["X_st"].numpy()
        part = forward(x, module.by_field(source), module.by_field(partial))["X_st"].numpy()
        logits = {f: v.numpy() for f, v in module.classifier(there["X_st"]).items()}
    h1, h2 = there["hidden_encodings"], back["hidden_encodings"]
    expected = {
        "recon": np.mean((back["X_st"].numpy() - x.numpy()) ** 2),
        "integ": np.mean([np.mean((h1[k].numpy() - h2[k].numpy()) ** 2) for k in h1]),
        "target": np.mean([numpy_cross_entropy(v, target[:, f].numpy()) for f, v in enumerate(logits.values())]),
        "identity": np.mean((same - x.numpy()) ** 2),
        "effect": np.mean((part - same - shift.numpy()) ** 2),
    }
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert float(targets["d"]) == pytest.approx(numpy_cross_entropy(logits["d"], target[:, 2].numpy()), rel=1e-5)
    assert len(h1) == 4 and integration_loss(h1, h1) == 0


def test_ca_12_effect_size_equals_numpy(module):
    x, (source, _) = torch.rand(16, 20), draw(16)
    with torch.no_grad():
        parts = module.generator(x, module.by_field(source), module.by_field(source))["head_logits"]
        expected = sum(np.mean((p.numpy() - p.numpy().mean(0)) ** 2) for k, p in parts.items() if k != "base")
        assert float(module.effect_size(x, source)) == pytest.approx(expected, rel=1e-4)


def test_target_loss_leaves_out_cells_without_a_category():
    logits = {"a": torch.randn(4, 2)}
    codes = torch.tensor([[0], [2], [-1], [1]])
    found = target_losses(logits, codes, torch.tensor([2]))["a"]
    assert float(found) == pytest.approx(numpy_cross_entropy(logits["a"][[0, 3]].numpy(), np.array([0, 1])), rel=1e-5)
    nothing = target_losses(logits, torch.full((4, 1), -1), torch.tensor([2]))["a"]
    assert float(nothing) == 0


def test_scale_is_log1p_of_counts_per_ten_thousand_or_counts(module):
    counts = torch.poisson(torch.full((3, 20), 2.0))
    expected = np.log1p(1e4 * counts.numpy() / counts.numpy().sum(1, keepdims=True))
    np.testing.assert_allclose(module.scaled(counts), expected, rtol=1e-5)
    module.scale = "counts"
    assert module.scaled(counts) is counts


def test_ca_18_a_batch_of_one_cell_works(module):
    source, target = draw(1)
    terms, _ = module.generator_terms(torch.rand(1, 20), source, target)
    assert all(torch.isfinite(value) for value in terms.values())


def test_effects_are_centred_and_add_up_to_the_mean_output(module):
    """Oracle: the mean over cells of the output, had all cells one context."""
    torch.manual_seed(2)
    x, (source, _) = torch.rand(50, 20), draw(50)
    with torch.no_grad():
        hidden = module.generator.encode(x, module.by_field(source))
        module.hidden_mean.copy_(torch.stack([h.mean(dim=0) for h in hidden.values()]))
        module.frequencies.copy_(torch.tensor([0.25, 0.75, 0.2, 0.3, 0.5, 0.1, 0.2, 0.3, 0.2, 0.1, 0.1]))
        wanted = torch.tensor([1, 2, 4]).expand(50, 3)
        mean = module.translate(x, source, wanted).mean(dim=0)
        effects = {f: module.raw_effects(f) - module.offset(f) for f in module.fields}
        total = module.intercept() + effects["a"][1] + effects["b.c"][2] + effects["d"][4]
        torch.testing.assert_close(total, mean)
        for field, effect in effects.items():
            assert (module.frequency(field) @ effect).abs().max() < 1e-5
        parts = module.head_logits(x, source)
        torch.testing.assert_close(sum(parts.values()), module.translate(x, source, source))
