import pytest

from hpvade._cli._words import in_words

OPTIONS = {"--labels-key", "--layer", "--bulk-layer", "--missing", "--input-type", "--unknown", "--map-genes"} | {
    "--epochs", "--genes-in", "--mapping", "--on-bad-sample", "--hierarchy-levels", "--tree", "--shrink",
}  # fmt: skip


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("Leave input_type='auto' or name a unit.", "Leave --input-type auto or name a unit."),
        ("Pass deconvolve(missing='zero').", "Pass --missing zero."),
        ("see deconvolve(unknown=True).", "see --unknown."),
        ("Use `deconvolve(..., unknown=True)`.", "Use --unknown."),
        ("Use unknown=False.", "Use no --unknown."),
        ("labels_key='x' is not in adata.obs; found ['a_b']", "--labels-key x is not in REF.obs; found ['a_b']"),
        ("labels_key='T cells' is no column", "--labels-key 'T cells' is no column"),
        ("labels_key is missing", "--labels-key is missing"),
        ("layer='log' is not in bulk.layers", "--bulk-layer log is not in BULK.layers"),
        ("the layer with counts (layer='counts'), or", "the layer with counts (--layer counts), or"),
        ("Wait (unknown=True) here.", "Wait (--unknown) here."),
        ("layer='counts' is not in adata.layers", "--layer counts is not in REF.layers"),
        ("Say so with genes='rows' or genes='columns'.", "Say so with --genes-in rows or --genes-in columns."),
        ("Check it with hpvade.tl.check_labels, or", "Check it with `hpvade check-labels`, or"),
        ("`hp.pp.transfer_labels(adata, anchor)` repairs", "`hpvade transfer-labels` repairs"),
        (
            "hpvade.pp.transfer_labels(adata, hpvade.datasets.blood_anchor(), labels_key='k', types=['CD4 T', 'NK']).",
            '`hpvade transfer-labels --labels-key k --type "CD4 T" --type NK`.',
        ),
        (
            "Correct: hpvade.pp.transfer_labels(adata, types=['NK'], mapping={'1': 'CD4 T', '5': 'NK'}).",
            'Correct: `hpvade transfer-labels --type NK --mapping M.json`, with {"1": "CD4 T", "5": "NK"} in M.json.',
        ),
        ("Say mapping={'own': 'NK'}; or", 'Say --mapping M.json, a file with {"own": "NK"}; or'),
        ("or leave these samples out: `bulk[bulk.obs['g'].notna()].copy()`.", "or leave these samples out."),
        ("max_epochs=5", "--epochs 5"),
        ("gene_factor='stored', and none is stored.", "gene_factor='stored', and none is stored."),
        ("my_file.csv has no column 'cell_type'", "my_file.csv has no column 'cell_type'"),
        ("run/my_file has", "run/my_file has"),
        ("genes know x, bulk.var_names has y", "genes know x, the genes of BULK has y"),
        ("Write `bulk.var_names = names`.", "Write `bulk.var_names = names`."),
        ("as `bulk = hp.pp.map_genes(bulk)` does, or", "as --map-genes does, or"),
    ],
)  # fmt: skip
def test_arguments_become_options(python, shell):
    assert in_words(python, OPTIONS) == shell


def test_the_proposal_to_map_genes():
    from hpvade.io._gene_names import MAP_GENES

    assert in_words(f"Other names: {MAP_GENES}", OPTIONS) == "Other names: pass --map-genes."
    assert in_words(f"Other names: {MAP_GENES}", {"--layer"}) == f"Other names: {MAP_GENES}"


def test_a_table_of_labels_is_an_option():
    from hpvade.reference._checks import _NO_COLUMNS

    assert in_words(_NO_COLUMNS, {"--obs"}) == "no columns. A table of labels is joined by --obs labels.csv"
