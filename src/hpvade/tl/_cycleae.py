"""Write what a CycleAE says into an AnnData."""

from typing import TYPE_CHECKING

from anndata import AnnData

from .._keys import Keys
from ..io._names import writable

if TYPE_CHECKING:
    from ..models.cycleae._model import CycleAE


def cycleae(adata: AnnData, model: "CycleAE", *, copy: bool = False) -> AnnData | None:
    """Write latent vectors, influence of the heads and effects of contexts of :class:`hpvade.CycleAE`.

    Parameters
    ----------
    adata
        Cells with the genes and fields of the model.
    model
        Trained model.
    copy
        Write to a copy and return it.

    Returns
    -------
    None, or the copy. Written are ``obsm["X_cycleae"]`` (cells x latent, base head),
    ``uns["cycleae_head_influence"]`` (heads x mean, min, max, share) and ``varm["cycleae_effects"]`` (genes x
    "field: category").

    Raises
    ------
    RuntimeError
        The model is not trained.
    ValueError
        Genes or categories are not those of the model.

    Examples
    --------
    >>> import hpvade as hp
    >>> hp.tl.cycleae(adata, model)  # doctest: +SKIP
    """
    adata = adata.copy() if copy else adata
    latent, influence = model.get_latent_representation(adata), model.get_head_influence(adata)
    effects = model.get_context_effects().T
    effects.columns = [f"{field}: {category}" for field, category in effects.columns]
    adata.obsm[Keys.CYCLEAE_LATENT] = latent
    adata.uns[Keys.CYCLEAE_INFLUENCE] = influence
    adata.varm[Keys.CYCLEAE_EFFECTS] = writable(effects)
    return adata if copy else None
