"""Attribution of latent axes to modalities by exact derivatives of the expected counts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData

from ._jacobian import jacobian_summary
from ._shared_module import CONDITIONING, CONTINUOUS
from ._umap import write_umap

_REMOVE = (False, True, "cat_covs", "feature_scaling", "all")
_REFERENCES = ("zero", "mean", "reference")


def modality_attribution(model, mdata, indices, *, batch_size, remove, reference, method) -> dict:
    """See `RegularizedMultimodalVI.get_modality_attribution`."""
    if remove not in _REMOVE:
        raise ValueError(f"remove_covariates={remove!r} is unknown; expected one of {list(_REMOVE)}.")
    if reference not in _REFERENCES:
        raise ValueError(f"covariate_reference={reference!r} is unknown; expected one of {list(_REFERENCES)}.")
    if method not in ("h2b", "jacfwd"):
        raise ValueError(f"attribution_method={method!r} is unknown; expected 'h2b' or 'jacfwd'.")
    model._check_if_trained(warn=False)
    module, order = model.module, model._positions(mdata, indices)
    blocks = list(module.latent_blocks().values())
    found = {name: {"attribution": [], "weighted_z": [], "frobenius": []} for name in module.modality_names}
    replacement = None
    if remove in (True, "all", "cat_covs"):
        replacement = _reference_categories(model, reference)
    plain = remove in (True, "all", "feature_scaling")
    for tensors in model._make_data_loader(mdata, order[0], batch_size):
        tensors = {key: value.to(module.device) for key, value in tensors.items()}
        inputs = module._get_inference_input(tensors)
        with torch.no_grad():
            inferred = module.inference(**inputs)
        z = (inferred["qz"].loc * inferred.get("z_scale", 1.0)).detach()
        covs = inputs["covs"]
        if replacement is not None:
            covs = covs | {CONDITIONING: replacement.to(z).expand(len(z), -1)}
        context = torch.cat([*([covs[CONTINUOUS]] if CONTINUOUS in covs else []), covs[CONDITIONING]], dim=1)
        for name in module.modality_names:
            with torch.no_grad():
                size = module.size(name, inferred["ql"][name].loc)
                weights = size if plain else size * module.feature_scaling_of(name, covs)
                summary = jacobian_summary(_decoder(module, name), z, context, weights, blocks, method)
            values = {"attribution": summary[0], "weighted_z": z * summary[0], "frobenius": summary[1]}
            for key, value in values.items():
                found[name][key].append(value.cpu().numpy())
    return {
        name: {key: np.concatenate(parts)[order[1]] for key, parts in values.items()} for name, values in found.items()
    }


def _decoder(module, name: str):
    """Rho of a modality as a function of z and of the other inputs; the background does not depend on z."""
    decoder, n = module.part("decoder", name), module.layout.n_continuous
    return lambda z, context: decoder(torch.cat([z, context[:, :n]], dim=-1), context[:, n:])[0]


def _reference_categories(model, reference: str) -> torch.Tensor:
    """One-hots (1, categories) that stand for the decoder's categories."""
    module = model.module
    sizes = [n for n in module.decoder_cats if n]
    if reference == "zero":
        return torch.zeros(1, sum(sizes))
    if reference == "reference":
        return torch.cat([torch.eye(n)[:1] for n in sizes] or [torch.zeros(1, 0)], dim=1)
    if model.adata is None:
        raise ValueError("covariate_reference='mean' needs the registered cells; load the model with data.")
    rows = [module.read_covariates(t)[CONDITIONING].cpu() for t in model._make_data_loader(model.adata, None, 1024)]
    return torch.cat(rows).mean(dim=0, keepdim=True)


def store_attribution(adata: AnnData, found: dict, blocks: dict[str, slice]) -> None:
    """See `RegularizedMultimodalVI.store_attribution_results`."""
    totals = {}
    for name, values in found.items():
        attribution = values["attribution"]
        own = attribution[:, blocks.get(name, slice(None))]
        adata.obsm[f"X_latent_attr_{name}"] = values["weighted_z"]
        totals[name] = attribution.sum(axis=1)
        adata.obs[f"{name}_decoder_total_attr"] = totals[name]
        adata.obs[f"{name}_decoder_own_attr"] = own.sum(axis=1)
    if len(found) == 2:
        first, second = found
        tiny = np.finfo(np.float32).tiny
        adata.obs[f"log2_{first}_vs_{second}_attr"] = np.log2((totals[first] + tiny) / (totals[second] + tiny))


class AttributionMethods:
    """Attribution methods of the multimodal model."""

    def get_modality_attribution(
        self,
        mdata: MuData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        remove_covariates: Literal["cat_covs", "feature_scaling", "all"] | bool = False,
        covariate_reference: Literal["zero", "mean", "reference"] = "zero",
        attribution_method: Literal["h2b", "jacfwd"] = "h2b",
    ) -> dict[str, dict[str, np.ndarray]]:
        r"""How much each latent axis moves the expected counts of each modality, by automatic differentiation.

        Parameters
        ----------
        mdata, indices, batch_size
            Cells, and cells per pass; the result does not depend on `batch_size`.
        remove_covariates
            Differentiate without the categories that the decoder is told (``"cat_covs"``), without the technical factor
            (``"feature_scaling"``), or without both (``"all"`` or True).
        covariate_reference
            What takes the place of the categories: no category, their frequencies among the registered cells, or the
            first one of each covariate.
        attribution_method
            ``"h2b"``: one latent axis at a time, memory independent of their number; ``"jacfwd"``: all at once.

        Returns
        -------
        By modality: ``"attribution"`` (cells x latent), the mean over features of
        :math:`|\partial\,\text{rate}_f / \partial z_k|`; ``"weighted_z"``, z times attribution; ``"frobenius"``
        (cells x modalities), the norm of the derivatives with respect to the latent axes of each modality (with
        ``latent_mode="weighted_mean"`` there is one block, of all axes).
        """
        return modality_attribution(
            self,
            self._validate_anndata(mdata),
            indices,
            batch_size=batch_size,
            remove=remove_covariates,
            reference=covariate_reference,
            method=attribution_method,
        )

    def store_attribution_results(
        self, adata: AnnData, mdata: MuData | None = None, **kwargs
    ) -> dict[str, dict[str, np.ndarray]]:
        """Write :meth:`get_modality_attribution` to `adata`, an AnnData of the same cells, and return it.

        ``obsm["X_latent_attr_{m}"]`` holds z times attribution; ``obs["{m}_decoder_total_attr"]`` the attribution
        summed over all latent axes, ``obs["{m}_decoder_own_attr"]`` over those of the modality itself; with two
        modalities ``obs["log2_{m0}_vs_{m1}_attr"]`` is the log ratio of their totals.

        Parameters
        ----------
        adata
            Where to write; usually one modality of the MuData.
        mdata
            Cells; those of the model when None.
        **kwargs
            For :meth:`get_modality_attribution`.

        Raises
        ------
        ValueError
            `adata` has other cells.
        """
        mdata = self._validate_anndata(mdata)
        if not adata.obs_names.equals(mdata.obs_names):
            raise ValueError(
                f"adata has other cells than mdata ({adata.n_obs} and {mdata.n_obs}, or another order); expected the "
                "same ones: `adata = adata[mdata.obs_names].copy()`."
            )
        found = self.get_modality_attribution(mdata, **kwargs)
        store_attribution(adata, found, self.module.latent_blocks())
        return found

    def compute_attribution_umap(
        self, adata: AnnData, mdata: MuData | None = None, *, n_neighbors: int = 15, seed: int = 0, **kwargs
    ) -> None:
        """Write z times attribution of each modality and its UMAP to `adata`, an AnnData of the same cells.

        To ``obsm["X_latent_attr_{m}"]`` and ``obsm["X_umap_attr_{m}"]``: cells are near that move a modality's counts
        by the same axes. What :meth:`store_attribution_results` writes is written, too.

        Parameters
        ----------
        adata
            Where to write; usually one modality of the MuData.
        mdata
            Cells; those of the model when None.
        n_neighbors, seed
            Of the neighbourhood graph and the layout.
        **kwargs
            For :meth:`get_modality_attribution`.

        Raises
        ------
        ValueError
            `adata` has other cells.
        """
        found = self.store_attribution_results(adata, mdata, **kwargs)
        latents = {f"X_latent_attr_{name}": values["weighted_z"] for name, values in found.items()}
        layouts = {key: key.replace("X_latent", "X_umap") for key in latents}
        write_umap(adata, latents, layouts, n_neighbors=n_neighbors, seed=seed)

    def plot_modality_attribution(self, mdata: MuData | None = None, **kwargs):
        """Draw the mean attribution of every latent axis to every modality.

        Parameters
        ----------
        mdata
            Cells; those of the model when None.
        **kwargs
            For :meth:`get_modality_attribution`.

        Returns
        -------
        The attribution, and the figure.
        """
        from ..._figures._attribution import modality_attribution as draw

        found = self.get_modality_attribution(mdata, **kwargs)
        table = pd.DataFrame({name: values["attribution"].mean(axis=0) for name, values in found.items()})
        blocks = {name: (b.start, b.stop) for name, b in self.module.latent_blocks().items()}
        return found, draw(table.T, blocks)

    def plot_attribution_scatter(self, adata: AnnData, basis: str = "X_umap_joint"):
        """Draw cells coloured by what :meth:`store_attribution_results` wrote; returns the figure.

        Raises
        ------
        ValueError
            `adata` has no attribution, or no `basis`.
        """
        from ..._figures._attribution import attribution_scatter

        return attribution_scatter(adata, self.module.modality_names, basis=basis)
