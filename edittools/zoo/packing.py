"""Weights in fewer bytes: matrices as whole numbers with a scale a row, everything else in half precision."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

SCALE = ".scale"
"""What the name of a matrix's scales ends with."""


def packed(state: Mapping[str, Tensor], coarse: Callable[[str], bool]) -> dict[str, Tensor]:
    """Round a state dict: of the names for which `coarse` holds, matrices `(R, C)` become int8 with scales `(R, 1)`.

    The largest entry of each row becomes ±127, so what is lost is at most half of 1/127 of it. All other numbers with a
    fraction become float16, scales too; counts stay as they are.
    """
    found = {}
    for name, value in state.items():
        if value.ndim == 2 and coarse(name):
            scale = (value.float().abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-7).half()
            found[name + SCALE] = scale
            value = (value / scale.float()).round().clamp(-127, 127).to(torch.int8)
        found[name] = (value.half() if value.is_floating_point() else value).contiguous()
    return found


def unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `packed` made of a state dict, as float32; one that was never packed comes back as it is, but float32."""
    found = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    for name in [name for name in state if name.endswith(SCALE)]:
        found[name.removesuffix(SCALE)] = found[name.removesuffix(SCALE)] * found.pop(name)
    return found
