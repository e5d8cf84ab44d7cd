import re

from hpvade._report._methods import REFERENCES, methods


def test_every_reference_is_cited_and_exists(trained):
    bulk = trained.bulk.copy()
    summary = {"hpvade_version": "9.9", "input_type": "counts", "n_genes": 290, "gene_overlap": 0.97}
    summary |= {"n_genes_fitted": 77, "n_simulated": 104}
    text = methods(bulk, trained.model, summary, {"calibrated": False})
    assert {int(n) for n in re.findall(r"\[(\d)\]", text)} == set(range(1, len(REFERENCES) + 1))
    for part in ("12 bulk", "9.9", "4 cell types", "290 genes", "97%", "77 genes", "104 samples", "not calibrated"):
        assert part in text
    assert "was calibrated with" in methods(bulk, trained.model, summary, {"calibrated": True})
