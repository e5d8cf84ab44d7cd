"""Types whose profiles come from sorted bulk: known to the model, wider in the intervals, named in provenance."""

import torch
from torch import Tensor

from ..._keys import Keys
from ._intervals import SCALE_OTHER, SIZE_SD_OTHER


@torch.no_grad()
def mark_sorted(module, types: list[str], uns) -> None:
    """Keep what `pp.add_sorted_profiles` wrote of the types, and widen their intervals.

    Held-out donors have the same profile of such a type, and say nothing about it. Its standard deviations are scaled
    as on another platform at least, and as the largest of the others; the spread that the platform factor leaves over
    genes comes on top. Its log RNA content varies as between tables.
    """
    table = uns.get(Keys.SORTED_PROFILES)
    if table is None:
        return
    table = table.reindex(types)
    log_sd, size_sd = (
        torch.from_numpy(table[name].to_numpy(float, na_value=0.0)).to(module.interval_scale)
        for name in ("log_sd", "size_log_sd")
    )
    module.sorted_log_sd.copy_(log_sd)
    added = log_sd > 0
    module.interval_scale.copy_(torch.where(added, _wider(module.interval_scale, log_sd), module.interval_scale))
    module.size_sd.copy_(torch.where(added, size_sd.clamp(min=SIZE_SD_OTHER), module.size_sd))


def _wider(scale: Tensor, log_sd: Tensor) -> Tensor:
    return scale.max().clamp(min=SCALE_OTHER) * (1 + log_sd)
