"""The networks of CycleAE, which live in `hpvade.models.cycleae`; loaded when asked for."""

from ._elsewhere import hand_on

__getattr__, __all__ = hand_on(
    __name__,
    CAE="hpvade.models.cycleae._network",
    ContextClassifier="hpvade.models.cycleae._network",
    FieldHead="hpvade.models.cycleae._network",
    HEAD_SCALE="hpvade.models.cycleae._network",
    codes_of="hpvade.models.cycleae._network",
    route="hpvade.models.cycleae._network",
    used_fields="hpvade.models.cycleae._network",
)
