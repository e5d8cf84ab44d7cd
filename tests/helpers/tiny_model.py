"""The smallest model with everything that `BaseModel` gives, and cells for it."""

import anndata as ad
import numpy as np
import pandas as pd
import scvi
import torch
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LayerField
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch.distributions import Normal, kl_divergence

from hpvade.models._base import BaseModel
from hpvade.models._vae import VAEMethods


class TinyModule(BaseModuleClass):
    def __init__(self, n_genes, n_latent, width):
        super().__init__()
        self.encoder = torch.nn.Linear(n_genes, 2 * n_latent)
        self.decoder = torch.nn.Linear(n_latent, n_genes * width)
        self.tied = self.decoder.weight  # shares memory with another entry of the state
        self.register_buffer("n_seen", torch.tensor(0))

    def _get_inference_input(self, tensors, **kwargs):
        return {"x": tensors["X"]}

    @auto_move_data
    def inference(self, x):
        loc, log_scale = self.encoder(torch.log1p(x)).chunk(2, dim=1)
        qz = Normal(loc, log_scale.exp())
        return {"qz": qz, "z": qz.rsample()}

    def _get_generative_input(self, tensors, inference_outputs, **kwargs):
        return {"z": inference_outputs["z"]}

    @auto_move_data
    def generative(self, z):
        return {"mean": self.decoder(z)}

    def loss(self, tensors, inference_outputs, generative_outputs):
        error = (generative_outputs["mean"] - torch.log1p(tensors["X"])).square().sum(1)
        kl = kl_divergence(inference_outputs["qz"], Normal(0.0, 1.0)).sum(1)
        return LossOutput(loss=(error + kl).mean(), reconstruction_loss=error, kl_local=kl)


class Tiny(VAEMethods, UnsupervisedTrainingMixin, BaseModel):
    def __init__(self, adata=None, registry=None, *, n_latent=3, shift=(0.5, None), width=1):
        super().__init__(adata, registry)
        self.module = TinyModule(self.summary_stats.n_vars, n_latent, width)
        self.gene_means_ = None if adata is None else pd.DataFrame({"mean": adata.X.mean(0)}, index=adata.var_names)
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(cls, adata, labels_key, *, layer=None, **kwargs):
        setup_method_args = cls._get_setup_method_args(**locals())
        fields = [LayerField("X", layer, is_count_data=True), CategoricalObsField("labels", labels_key)]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)


class Other(Tiny):
    pass


def make_adata(seed=0):
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(rng.poisson(2.0, (100, 20)).astype(np.float32))
    adata.var_names = [f"g{i}" for i in range(20)]
    adata.obs["type"] = rng.permutation(np.repeat(["B", "NK", "T"], [40, 30, 30]))
    return adata


def trained_tiny():
    scvi.settings.seed = 1
    adata = make_adata()
    Tiny.setup_anndata(adata, labels_key="type")
    model = Tiny(adata, n_latent=2)
    model.train(2, batch_size=32, check_val_every_n_epoch=1, enable_progress_bar=False, logger=None)
    return model
