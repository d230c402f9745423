"""Networks of MiniWorld rely on the ground, not on how it meets the border of the image; those of 0.4 did."""

from pathlib import Path

import pytest
from border import errors_at_the_border, strip_ratios, with_padding
from safetensors.torch import load_file
from train_mini import evaluation_sets

from edittools import load_classifier
from edittools.classifiers import Classifier

OLD_WEIGHTS = Path(__file__).resolve().parent.parent / "saved_edit" / "mini_vgg_of_0.4.safetensors"
LAYER = "features.10"


def old_network() -> Classifier:
    """Load `mini_vgg` with the weights of 0.4, which was trained with zero padding."""
    classifier = with_padding(load_classifier("mini_vgg"), "zeros")
    classifier.model.load_state_dict(load_file(OLD_WEIGHTS))
    return classifier


@pytest.fixture(scope="module")
def sets():
    return evaluation_sets("validation", workers=1)


def test_snow_in_the_interior_is_enough(sets):
    errors = errors_at_the_border(load_classifier("mini_vgg"), sets)
    assert 30 <= errors["vehicles on snow, padding replicate"] <= 70
    assert errors["texture of snow in the interior"] >= 0.6 * errors["texture of snow everywhere"]
    assert errors["texture of snow along the border"] <= errors["texture of snow everywhere"]


def test_snow_along_the_border_misled_the_network_of_0_4(sets):
    errors = errors_at_the_border(old_network(), sets)
    assert errors["texture of snow in the interior"] < 0.6 * errors["texture of snow everywhere"]
    assert errors["texture of snow along the border"] > errors["texture of snow everywhere"]
    assert errors["vehicles on snow, padding replicate"] < 0.25 * errors["vehicles on snow, padding zeros"]


def test_edit_map_is_not_concentrated_in_the_strip():
    ratios = strip_ratios(load_classifier("mini_vgg"), LAYER)
    old_ratios = strip_ratios(old_network(), LAYER)
    assert sum(ratios) / len(ratios) <= 1.2 < sum(old_ratios) / len(old_ratios)
