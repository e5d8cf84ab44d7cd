"""The networks of IVAE, which live in `hpvade.models.ivae`; loaded when asked for."""

from ._elsewhere import hand_on

__getattr__, __all__ = hand_on(
    __name__,
    Decoder="hpvade.models.ivae._network",
    Encoder="hpvade.models.ivae._network",
    VAE="hpvade.models.ivae._network",
    join="hpvade.models.ivae._network",
    weight_init="hpvade.models.ivae._network",
)
