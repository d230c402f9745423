"""The names of classifiers; they can be checked before torch is imported."""

from collections.abc import Callable
from typing import Any

from edittools._checks import suggestion

ZOO: dict[str, str | Callable[..., Any]] = {
    "mini_vgg": "edittools_course.networks.embedded:load_mini",
    "mini_resnet": "edittools_course.networks.embedded:load_mini",
    "mini_vit": "edittools_course.networks.embedded:load_mini",
    "mini_vgg_balanced": "edittools_course.networks.embedded:load_mini",
    "mini_clip": "edittools_course.networks.embedded:load_mini_clip",
    "clip_rn50": "edittools_course.networks.zero_shot:load_clip",
    "efficientnet_lite0": "edittools_course.networks.imagenet:load_efficientnet_lite",
    "efficientnet_lite1": "edittools_course.networks.imagenet:load_efficientnet_lite",
    "efficientnet_lite2": "edittools_course.networks.imagenet:load_efficientnet_lite",
    "squeezenet1_1": "edittools_course.networks.imagenet:load_squeezenet",
    "shortcuts_lite0": "edittools_course.networks.finetuned:load_published_shortcuts",
    "shortcuts_squeezenet": "edittools_course.networks.finetuned:load_published_shortcuts",
    "rendered_squeezenet": "edittools_course.networks.finetuned:load_rendered_shortcuts",
    "vgg16": "edittools_course.networks.imagenet:load_torchvision",
    "vgg16_bn": "edittools_course.networks.imagenet:load_torchvision",
    "resnet18": "edittools_course.networks.imagenet:load_torchvision",
    "resnet50": "edittools_course.networks.imagenet:load_torchvision",
    "resnet18_places365": "edittools_course.networks.imagenet:load_places365",
}
"""The function that loads each classifier, by name, or its module and name, so that it is imported when it is used."""


def check_name(name: str) -> None:
    """Check that there is a classifier of a name.

    Raises:
        KeyError: if there is none.
    """
    if name in ZOO:
        return
    question = suggestion(name, ZOO)
    hint = f"{question} " if question else ""
    raise KeyError(
        f"no classifier {name!r}; {hint}Available: {', '.join(ZOO)}. For a model of your own, use "
        "Classifier(model, class_names), or on the command line FILE.py:FUNCTION, a function that returns both"
    )
