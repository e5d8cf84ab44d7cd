"""Write the embeddings of a model into an AnnData."""

from typing import TYPE_CHECKING

from anndata import AnnData

if TYPE_CHECKING:
    from ..models.ivae._model import IVAE


def embed(adata: AnnData, model: "IVAE", *, batch_size: int | None = None, copy: bool = False) -> AnnData | None:
    """Write the latent vectors and the bottleneck of :class:`hpvade.IVAE` to `adata.obsm`.

    Parameters
    ----------
    adata
        Cells whose genes include the model's, in any order.
    model
        Trained model.
    batch_size
        Cells per pass.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. ``obsm["X_ivae"]`` (cells x latent) and, unless the model has `irecon` 0,
    ``obsm["X_ivae_bottleneck"]`` (cells x axes) are written.

    Raises
    ------
    RuntimeError
        The model is not trained.
    ValueError
        Genes of the model are absent.

    Examples
    --------
    >>> import hpvade as hp
    >>> hp.tl.embed(adata, model)  # doctest: +SKIP
    >>> hp.pl.embedding(adata, color="cell_type")  # doctest: +SKIP
    """
    adata = adata.copy() if copy else adata
    for key, embedding in model.get_embeddings(adata, batch_size=batch_size).items():
        adata.obsm[key] = embedding
    return adata if copy else None
