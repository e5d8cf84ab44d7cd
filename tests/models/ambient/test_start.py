"""Starting values reach the module only where the options ask for them; the values are tested with the models."""

import pytest
import torch


@pytest.mark.parametrize(
    ("options", "same"),
    [({}, False), ({"init_decoder_bias": None}, True)],
)
def test_decoder_bias_starts_from_data_when_asked(build, make, options, same):
    first, second = (build(make.rna(mean=mean), seed=0, **options).module for mean in (4.0, 8.0))
    bias = [m.decoder.px_scale_decoder[0].bias for m in (first, second)]
    assert torch.equal(*bias) == same


def test_the_library_prior_always_does(build, make):
    model = build(make.rna(), init_decoder_bias=None, bg_init_gene_fraction=None)
    assert model.module.library_global_log_mean > 0 and model.module.median_total > 1
    assert model.module.additive_background.exp().mean().item() == pytest.approx(0.01, rel=0.02)
