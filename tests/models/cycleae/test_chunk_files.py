"""CA-09: chunks on disk against memory, and files that do not fit together."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import hpvade as hp
from hpvade.models.cycleae._chunk_files import pair_files
from hpvade.models.cycleae._contexts import build_context_specs, vocab_to_json

FIELDS = ["condition", "tissue"]


@pytest.fixture(scope="module")
def cells():
    return hp.datasets.planted_contexts(120, 40, seed=2)


@pytest.fixture
def chunks(cells, tmp_path):
    """``chunks(sizes)``: files of these sizes; the arguments of ChunkDataModule."""

    def chunks(sizes=(70, 50)):
        first = 0
        for i, n in enumerate(sizes):
            sparse.save_npz(tmp_path / f"human_counts_{i + 1}.npz", sparse.csr_matrix(cells.X[first : first + n]))
            cells.obs[["condition", "tissue", "cell_type"]].iloc[first : first + n].to_pickle(
                tmp_path / f"human_metadata_{i + 1}.pkl"
            )
            first += n
        vocab, specs = build_context_specs(sorted(tmp_path.glob("*.pkl")), FIELDS, allow_pickle=True)
        (tmp_path / "vocab.json").write_text(vocab_to_json(vocab))
        (tmp_path / "specs.json").write_text(json.dumps(specs))
        files = {"vocab": tmp_path / "vocab.json", "specs": tmp_path / "specs.json", "allow_pickle": True}
        return {"data_dir": tmp_path, "expr_glob": "human_counts_*.npz", "meta_glob": "human_metadata_*.pkl"} | files

    return chunks


def test_pickles_are_read_only_when_allowed(chunks):
    with pytest.raises(ValueError, match=r"human_metadata_1\.pkl is a pickle.*allow_pickle=True"):
        hp.ChunkDataModule(**chunks() | {"allow_pickle": False})


def test_ca_09_one_chunk_trains_like_memory(cells, chunks, weights):
    import scvi

    options = {"n_latent": 8, "nonnegative": False}
    train = {"max_epochs": 3, "accelerator": "cpu", "enable_progress_bar": False, "batch_size": 32}
    scvi.settings.seed = 0
    adata = cells.copy()
    hp.CycleAE.setup_anndata(adata, FIELDS)
    memory = hp.CycleAE(adata, **options)
    memory.train(**train)
    found = []
    for workers in ({}, {"num_workers": 0}, {"batch_workers": 2, "prefetch_factor": 2}):
        scvi.settings.seed = 0
        streamed = hp.CycleAE.fit_chunks(
            **chunks((120,)), genes=list(cells.var_names), model_kwargs=options, train_kwargs=train, **workers
        )
        found.append(weights(streamed))
        expected = weights(memory)
        assert all(torch.equal(found[-1][name], expected[name]) for name in expected)
    table = streamed.get_context_effects()
    pd.testing.assert_frame_equal(table, memory.get_context_effects())
    pd.testing.assert_frame_equal(
        streamed.get_counterfactual_expression(cells.copy(), context={"tissue": "tissue_1"}),
        memory.get_counterfactual_expression(context={"tissue": "tissue_1"}),
    )


def test_several_chunks_train_and_the_influence_streams(chunks, tmp_path):
    data = hp.ChunkDataModule(**chunks(), split_by="cell_type", genes=None)
    assert list(data.genes[:2]) == ["gene_0", "gene_1"] and [c.n_rows for c in data.chunks] == [70, 50]
    model = hp.CycleAE(registry=data.registry, n_latent=4, nonnegative=False)
    model.train(2, datamodule=data, accelerator="cpu", enable_progress_bar=False)
    assert not set(data.groups[model.train_indices]) & set(data.groups[model.validation_indices])
    assert list(model.get_head_influence(datamodule=data).index) == ["base", *FIELDS]
    model.save(tmp_path / "m")
    loaded = hp.CycleAE.load(tmp_path / "m")
    pd.testing.assert_frame_equal(loaded.get_context_effects(), model.get_context_effects())
    with pytest.raises(ValueError, match="pass `datamodule`"):
        loaded.train(1)


def test_files_pair_by_the_part_that_differs_else_in_order(tmp_path):
    for name in ("x_b.npz", "x_a.npz", "m_a.pkl", "m_b.pkl", "y_1.npz", "y_2.npz"):
        (tmp_path / name).touch()
    names = [(e.name, m.name) for e, m in pair_files(tmp_path, "x_*.npz", "m_*.pkl")]
    assert names == [("x_a.npz", "m_a.pkl"), ("x_b.npz", "m_b.pkl")]
    names = [(e.name, m.name) for e, m in pair_files(tmp_path, "y_*.npz", "m_*.pkl")]
    assert names == [("y_1.npz", "m_a.pkl"), ("y_2.npz", "m_b.pkl")]
    with pytest.raises(ValueError, match=r"has 4 files '\*.npz' and 2 files 'm_\*.pkl'; expected as many"):
        pair_files(tmp_path, "*.npz", "m_*.pkl")


def test_ca_09_and_ca_21_what_does_not_fit_is_refused_with_names(cells, chunks, tmp_path):
    arguments = chunks()
    meta, expr = tmp_path / "human_metadata_2.pkl", tmp_path / "human_counts_2.npz"
    good_meta, good_expr = pd.read_pickle(meta), sparse.load_npz(expr)

    def refused(message, error=ValueError, **changes):
        with pytest.raises(error, match=message):
            data = hp.ChunkDataModule(**arguments | changes)
            list(data.stream(data.train_idx, shuffle=False))

    good_meta.iloc[:-1].to_pickle(meta)
    refused("human_counts_2.npz has 50 rows, .*human_metadata_2.pkl has 49")
    good_meta.assign(tissue="moon").to_pickle(meta)
    refused("human_metadata_2.pkl: field 'tissue' holds 'moon', which the model does not know")
    good_meta.drop(columns="tissue").to_pickle(meta)
    refused("human_metadata_2.pkl has no column 'tissue'; found condition, cell_type", KeyError)
    good_meta.to_pickle(meta)
    sparse.save_npz(expr, good_expr[:, :-1].tocsr())
    refused("human_counts_2.npz has 39 genes, .*human_counts_1.npz has 40; expected the same genes")
    bad = good_expr.copy()
    bad.data[0] = -1
    sparse.save_npz(expr, bad)
    refused("human_counts_2.npz holds a negative value .* at obs '0'")
    sparse.save_npz(expr, good_expr.tocsc())
    refused("holds no CSR matrix")
    sparse.save_npz(expr, good_expr)
    specs = json.loads(arguments["specs"].read_text())
    specs["tissue"]["cardinality"] = 9
    refused("field 'tissue': the vocabulary has 3 values, the specification 9", specs=specs)
    refused("no field in use", specs={n: s | {"using": False} for n, s in specs.items()})
    refused("expected one of", missing="drop")
    refused("num_workers=-1", num_workers=-1)
    refused("genes='none.txt' is not a file", genes="none.txt")


def test_h5ad_chunks_are_compared_by_gene_name(cells, tmp_path):
    for i, part in enumerate((cells[:70], cells[70:])):
        part.copy().write_h5ad(tmp_path / f"c{i}.h5ad")
    vocab, specs = build_context_specs(sorted(tmp_path.glob("*.h5ad")), FIELDS)
    globs = {"expr_glob": "c*.h5ad", "meta_glob": "c*.h5ad", "vocab": vocab, "specs": specs}
    data = hp.ChunkDataModule(tmp_path, **globs)
    np.testing.assert_array_equal(data.genes, cells.var_names)
    x = torch.cat([batch["X"] for batch in data.stream(data.train_idx, shuffle=False)])
    np.testing.assert_array_equal(x, cells.X.toarray())
    other = cells[70:].copy()
    other.var_names = other.var_names[::-1]
    other.write_h5ad(tmp_path / "c1.h5ad")
    with pytest.raises(ValueError, match="c1.h5ad has other genes"):
        hp.ChunkDataModule(tmp_path, **globs)
