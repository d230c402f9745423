"""The folder of notebook 05: a network and images on disk, as a reader's own would be."""

import pytest
import torch
from conftest import needs_imagenette
from safetensors.torch import load_file
from torchvision.models import squeezenet1_1

import edittools as et
from edittools.folders import read_folder
from edittools.selection.splits import check_disjoint
from edittools_course.scenarios import own_folder

SETS = ("photos", "tagged", "clean", "retain", "test")


def load(tier):
    """Load the network and the image sets of a tier from its folder, and name the class of the tag."""
    example = own_folder(tier)
    model = squeezenet1_1(num_classes=len(example.class_names))
    model.load_state_dict(load_file(example.root / "weights.safetensors"))
    classifier = et.Classifier(model, example.class_names, size=example.size, resize_to=example.size)
    sets = {}
    for name in SETS:
        sets[name], left_out = read_folder(example.root / name, classifier)
        assert not left_out
    [goal] = [name for name in example.class_names if "truck" in name]
    return example, classifier, sets, classifier.index(goal)


@pytest.mark.parametrize("tier", ["mini", pytest.param("lite", marks=needs_imagenette)])
def test_own_folder_has_a_network_that_the_tag_misleads(tier):
    _, classifier, sets, goal = load(tier)
    check_disjoint({name: data.images for name, data in sets.items()})
    assert et.error_rate(classifier, sets["clean"]) < 0.15
    of_others = sets["test"]
    assert goal not in of_others.labels
    predicted = et.predict(classifier, of_others).argmax(dim=1)
    assert (predicted == goal).float().mean() > 0.4
    assert (predicted == of_others.labels).sum() > 10
    clean_others = sets["clean"].subset(sets["clean"].labels != goal)
    assert (et.predict(classifier, clean_others).argmax(dim=1) == goal).float().mean() < 0.02
    assert (sets["retain"].labels == goal).all()


def test_own_folder_marks_are_on_the_tags():
    example, classifier, sets, goal = load("mini")
    tagged = sets["tagged"]
    corrected = 0
    misled = ((et.predict(classifier, tagged).argmax(dim=1) == goal) & (tagged.labels != goal)).nonzero()[:, 0].tolist()
    for number in misled:
        mask = et.load_mask(example.root / "marks" / tagged.names[number], classifier)
        assert 0.05 < mask.mean() < 0.2
        without_tag = et.widgets.inpaint(tagged.images[number], mask)
        corrected += int(et.predict(classifier, without_tag[None]).argmax() == tagged.labels[number])
    assert corrected > len(misled) / 2
    assert torch.equal(tagged.labels.bincount() > 0, torch.ones(len(example.class_names), dtype=torch.bool))
