"""Where a model computes."""

import torch


def choose_device(accelerator: str, device: int | str) -> torch.device:
    """Find the torch device for scvi's `accelerator` and `device`; ValueError when it is not there.

    Examples
    --------
    >>> choose_device("cpu", "auto")
    device(type='cpu')
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = {"gpu": "cuda", "auto": "cuda" if there["cuda"] else "cpu"}.get(accelerator, accelerator)
    if isinstance(device, str) and device != "auto" and not device.isdigit():
        named = torch.device(device)
        kind, device = (named.type if accelerator == "auto" else kind), (named.index or 0)
        if kind != named.type:
            raise ValueError(f"accelerator={accelerator!r} and device={str(named)!r} contradict each other; give one.")
    if kind not in there:
        raise ValueError(f"accelerator={accelerator!r} is unknown; expected 'auto', 'cpu', 'gpu' or 'mps'.")
    if not there[kind]:
        raise ValueError(f"accelerator={accelerator!r} was asked for, but this machine has none. Use 'auto' or 'cpu'.")
    if kind != "cuda":
        return torch.device(kind)
    index = torch.cuda.current_device() if device == "auto" else int(device)
    if index >= torch.cuda.device_count():
        raise ValueError(f"device={device} was asked for, but there are {torch.cuda.device_count()} GPUs, from 0.")
    return torch.device(kind, index)
