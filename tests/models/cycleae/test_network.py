"""Networks of CycleAE against a reference written cell by cell."""

import numpy as np
import pytest
import torch

from hpvade.nn.cycleae import CAE, HEAD_SCALE, ContextClassifier, codes_of, route, used_fields

SPECS = {"cell.type": {"cardinality": 3, "using": True}, "sex 1": {"cardinality": 2, "using": True}}
SPECS |= {"lab": {"cardinality": 1, "using": True}, "note": {"cardinality": 5, "using": False}}


@pytest.fixture
def batch():
    torch.manual_seed(0)
    x = torch.rand(12, 30)
    source = {"cell.type": torch.randint(3, (12,)), "sex 1": torch.randint(2, (12,))}
    target = {"cell.type": (source["cell.type"] + 1) % 3, "sex 1": 1 - source["sex 1"]}
    return x, source, target


def reference(model, x, source, target):
    """The published forward pass, one cell after the other, in NumPy."""
    x, W = x.numpy().astype(np.float64), model.base.detach().numpy()
    out = np.zeros_like(x)
    for b in range(len(x)):
        out[b] = W.T @ (W @ x[b])
        for field in model.fields:
            head = model.head(field)
            E, M, D = (p.detach().numpy() for p in (head.encoder, head.categories, head.decoder))
            h = M[source[field][b]] @ (E @ x[b])
            out[b] += np.exp(head.log_scale.item()) * (D @ (M[target[field][b]] @ h))
    return out


def test_ca_01_shapes_tied_base_and_no_bias(batch):
    model = CAE(30, 4, SPECS)
    assert list(model.fields) == ["cell.type", "sex 1"]
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "base": (4, 30),
        "heads.field_0.encoder": (4, 30),
        "heads.field_0.categories": (3, 4, 4),
        "heads.field_0.decoder": (30, 4),
        "heads.field_0.log_scale": (),
        "heads.field_1.encoder": (4, 30),
        "heads.field_1.categories": (2, 4, 4),
        "heads.field_1.decoder": (30, 4),
        "heads.field_1.log_scale": (),
    }
    x, source, target = batch
    outputs = model(x, source, target)
    torch.testing.assert_close(outputs["hidden_encodings"]["base"], x @ model.base.T)
    torch.testing.assert_close(outputs["head_logits"]["base"], x @ model.base.T @ model.base)
    zero = model(torch.zeros_like(x), source, target)["X_st"]
    assert (zero == 0).all(), "linear without bias"


@pytest.mark.parametrize("head_scale", ["learned", 0.0159])
def test_ca_11_and_ca_16_routing_equals_the_published_forward_cell_by_cell(batch, head_scale):
    model = CAE(30, 4, SPECS, head_scale=head_scale)
    outputs = model(*batch)
    np.testing.assert_allclose(outputs["X_st"].detach(), reference(model, *batch), rtol=1e-5)
    assert model.head("sex 1").log_scale.exp().item() == pytest.approx(HEAD_SCALE)
    assert isinstance(model.head("sex 1").log_scale, torch.nn.Parameter) == (head_scale == "learned")


def test_ca_11_route_and_its_gradient_equal_a_loop():
    torch.manual_seed(0)
    h, matrices = torch.randn(9, 3, requires_grad=True), torch.randn(4, 3, 3, requires_grad=True)
    codes = torch.tensor([3, -1, 0, 0, 3, 1, -1, 3, 0])
    found = route(h, matrices, codes)
    expected = torch.stack([h[b] * 0 if c < 0 else matrices[c] @ h[b] for b, c in enumerate(codes)])
    torch.testing.assert_close(found, expected)
    weight = torch.randn(9, 3)
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), (h, matrices)),
        torch.autograd.grad((expected * weight).sum(), (h, matrices)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_one_hot_contexts_equal_codes_and_zero_rows_are_missing(batch):
    x, source, target = batch
    model = CAE(30, 4, SPECS)
    one_hot = {f: torch.nn.functional.one_hot(c, n).float() for (f, c), n in zip(source.items(), (3, 2), strict=True)}
    torch.testing.assert_close(model(x, one_hot, target)["X_st"], model(x, source, target)["X_st"])
    one_hot["sex 1"][0] = 0
    assert codes_of(one_hot["sex 1"])[0] == -1
    parts = model(x, one_hot, target)["head_logits"]
    assert (parts["sex 1"][0] == 0).all() and (parts["sex 1"][1] > 0).all()


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_ca_04_logits_sum_to_the_output_and_decode_equals_forward(batch, activation):
    x, source, target = batch
    model = CAE(30, 4, SPECS, activation=activation)
    if activation == "relu":
        torch.nn.init.uniform_(model.intercept)
    outputs = model(x, source, target)
    torch.testing.assert_close(sum(outputs["head_logits"].values()), outputs["X_st"])
    torch.testing.assert_close(model.decode(model.encode(x, source), target), outputs["X_st"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_genes", [200, 1000, 5000, 20_000])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("start", ["uniform", "data"])
def test_ca_03_scale_at_the_start(n_genes, nonnegative, start):
    torch.manual_seed(0)
    specs = {f: {"cardinality": 3, "using": True} for f in "abc"}
    model = CAE(n_genes, 16, specs, nonnegative=nonnegative)
    x = torch.poisson(torch.rand(n_genes) * 2 * torch.rand(48, 1)).log1p()
    source = {f: torch.randint(3, (48,)) for f in "abc"}
    target = {f: (c + 1) % 3 for f, c in source.items()}
    if start == "uniform":
        raw = model(x, source, target)["X_st"].norm(dim=1).mean() / x.norm(dim=1).mean()
        assert raw > 20, "the norm of the columns alone explodes"
        model.calibrate(x, source, target)
        there = model(x, source, target)["X_st"]
        torch.testing.assert_close(there.norm(dim=1).mean(), x.norm(dim=1).mean(), rtol=1e-3, atol=0)
    else:
        effects = {f: 0.1 * torch.randn(3, n_genes) for f in "abc"}
        model.start_from(x, source, {f: e - e.mean(dim=0) for f, e in effects.items()})
    there = model(x, source, target)["X_st"]
    back = model(there, target, source)["X_st"]
    for output in (there, back):
        assert 0.5 < float(output.norm(dim=1).mean() / x.norm(dim=1).mean()) < 2


def test_clamp_only_when_nonnegative():
    for nonnegative in (True, False):
        model = CAE(10, 3, SPECS, nonnegative=nonnegative)
        with torch.no_grad():
            model.base -= 1
        log_scale = model.head("sex 1").log_scale.clone()
        model.clamp()
        assert (model.base.min() < 0) != nonnegative
        assert torch.equal(model.head("sex 1").log_scale, log_scale)


def test_classifier_has_heads_of_used_fields_only():
    classifier = ContextClassifier(30, 8, SPECS)
    logits = classifier(torch.rand(5, 30))
    assert {f: tuple(v.shape) for f, v in logits.items()} == {"cell.type": (5, 3), "sex 1": (5, 2)}
    assert used_fields(SPECS) == {"cell.type": 3, "sex 1": 2}
    first, second = classifier.hidden[0], classifier.outputs[0]
    x = torch.rand(5, 30)
    torch.testing.assert_close(classifier(x)["cell.type"], second(torch.relu(first(x))))
