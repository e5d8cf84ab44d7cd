import re

from hpvade._report._methods import OF_GROUPS, REFERENCES, methods


def test_every_reference_is_cited_and_exists(trained):
    bulk = trained.bulk.copy()
    summary = {"hpvade_version": "9.9", "input_type": "counts", "n_genes": 290, "gene_overlap": 0.97}
    summary |= {"n_genes_fitted": 77, "n_simulated": 104}
    text = methods(bulk, trained.model, summary, {"calibrated": False})
    assert {int(n) for n in re.findall(r"\[(\d)\]", text)} == set(range(1, len(REFERENCES) + 1))
    for part in ("12 bulk", "9.9", "4 cell types", "290 genes", "97%", "77 genes", "104 samples", "not calibrated"):
        assert part in text
    assert "was calibrated with" in methods(bulk, trained.model, summary, {"calibrated": True})


def test_the_comparison_of_groups_is_said_and_cited(trained):
    summary = {"hpvade_version": "9.9", "input_type": "counts", "n_genes": 290, "gene_overlap": 0.97}
    summary |= {"n_genes_fitted": 77, "n_simulated": 104}
    params = {"groupby": "arm", "reference": "placebo", "adjusted_for": ["age"], "paired": "", "method": "weighted"}
    text = methods(trained.bulk, trained.model, summary, {}, {"results": None, "params": params})
    assert {int(n) for n in re.findall(r"\[(\d)\]", text)} == set(range(1, len(REFERENCES + OF_GROUPS) + 1))
    assert "(arm; reference placebo, adjusted for age)" in text
    refused = methods(trained.bulk, trained.model, summary, {}, {"refused": "one sample"})
    assert "Groups" not in refused and "[5]" not in refused
