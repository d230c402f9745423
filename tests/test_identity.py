"""The fingerprint of a classifier is the same in another process, and another one where a setting has changed."""

import subprocess
import sys

from torch import nn

from edittools.classifiers import Classifier, fingerprint

CODE = """
import torch
from torch import nn
from edittools.classifiers import Classifier, fingerprint

class Moded(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.mode = nn.Conv2d(3, 2, 3), "a"

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return x if self.mode in {"a", "b", "c", "d"} else 2 * x

print(fingerprint(Classifier(Moded(), ["a", "b"], size=8)))
"""


def test_fingerprint_in_processes_with_other_hash_seeds():
    found = {
        subprocess.run(
            [sys.executable, "-c", CODE], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_fingerprint_after_the_same_hook_is_registered_again():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = Classifier(model, ["a", "b"], size=8)

    def double(module, args, output):
        return 2 * output

    plain = fingerprint(classifier)
    handle = model.register_forward_hook(double)
    hooked = fingerprint(classifier)
    handle.remove()
    model.register_forward_hook(double)
    assert fingerprint(classifier) == hooked != plain
