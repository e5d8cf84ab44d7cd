"""Where a model computes."""

import pytest
import torch

from hpvade.models._device import choose_device


def test_choose_device(monkeypatch):
    assert choose_device("cpu", "auto") == choose_device("auto", "cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", "auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="this machine has none"):
        choose_device("gpu", "auto")
    with pytest.raises(ValueError, match="unknown"):
        choose_device("warp", "auto")
    with pytest.raises(ValueError, match="contradict"):
        choose_device("cpu", "cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert choose_device("auto", "auto") == torch.device("cuda:0")
    assert choose_device("gpu", 1) == choose_device("auto", "cuda:1") == choose_device("cuda", "1")
    with pytest.raises(ValueError, match="there are 2 GPUs"):
        choose_device("gpu", 2)
