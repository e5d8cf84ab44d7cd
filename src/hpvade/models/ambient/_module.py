"""`RegularizedVAE`: counts with additive ambient RNA, hierarchical dispersion, learned library size."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from ._shared_module import Layout, X
from ._variational_module import VariationalModule

_NAME = "rna"


class RegularizedVAE(VariationalModule):
    r"""One modality: :math:`x_{ng} \sim \mathrm{GammaPoisson}(\theta_{g},\ e^{l_n}(\rho_g(z_n) + s_{ng})\,y_{ng})`.

    Parameters
    ----------
    layout
        Sizes, with one modality in `n_vars`.
    options
        Every option of :class:`hpvade.AmbientRegularizedSCVI`.

    Examples
    --------
    >>> from hpvade.models.ambient._options import ambient_options
    >>> from hpvade.models.ambient._shared_module import Layout
    >>> module = RegularizedVAE(Layout({"rna": 50}, ambient=(3,), dispersion=3, library=3), ambient_options({}))
    >>> module.additive_background.shape
    torch.Size([50, 3])
    """

    def __init__(self, layout: Layout, options: dict):
        super().__init__(layout, options)
        (self.name,) = self.modality_names
        self.dispersion, self.use_additive_background = options["dispersion"], options["use_additive_background"]
        self.n_latent = options["n_latent"]
        self.build(self.name, n_decoder_input=self.n_latent + layout.n_continuous)
        self._build_latent_scales()

    def part(self, kind: str, name: str):
        """Attribute `kind`; None when there is none."""
        return getattr(self, kind, None)

    def put(self, kind: str, name: str, value) -> None:
        """Set the attribute `kind`."""
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(kind, value)
        else:
            setattr(self, kind, value)

    def counts(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Counts of a minibatch."""
        return {self.name: tensors[X]}

    def pack(self, values: dict):
        """The value of the one modality."""
        return values[self.name]

    def unpack(self, value) -> dict:
        """Inverse of `pack`."""
        return {self.name: value}

    def metric(self, key: str, name: str) -> str:
        """Plain name."""
        return key

    def posterior(self, x: dict[str, Tensor], covs: dict, present: dict[str, Tensor]) -> Normal:
        """q(z|x)."""
        counts = x[self.name]
        inputs = [self.encoder_input(self.name, counts), *([covs["extra_continuous_covs"]] if self._continuous else [])]
        return self.z_encoder(torch.cat(inputs, dim=-1), covs["encoder_covs"])[0]

    @property
    def _continuous(self) -> bool:
        return self.layout.n_continuous > 0
