"""The network of the ConditionalVAE and its checkpoints, which live in `hpvade.models.cvae`; loaded when asked for."""

from ._elsewhere import hand_on

__getattr__, __all__ = hand_on(
    __name__,
    ConditionalVAENet="hpvade.models.cvae._network",
    VAEConfig="hpvade.models.cvae._vae_config",
    fold_change="hpvade.models.cvae._network",
    load_trained_model="hpvade.models.cvae._checkpoint",
)
