import pytest


def test_what_needs_a_latent_library_names_an_alternative(trained):
    for name, alternative in (
        ("get_latent_library_size", "library_size='latent'"),
        ("get_importance_weights", "method='elbo'"),
    ):
        with pytest.raises(NotImplementedError, match=alternative):
            getattr(trained.model, name)()


def test_scvi_methods_want_a_trained_model(cells):
    import hpvade as hp

    adata = cells(45)
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", perturbation_key="perturbation")
    with pytest.raises(RuntimeError, match="train"):
        hp.ConditionalVAE(adata).get_normalized_expression()
