"""The names of classifiers, and where else classifiers come from; both can be checked before torch is imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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

NAME, TIMM, FILE = "name", "timm", "file"


class Source(NamedTuple):
    """Where a classifier comes from.

    Attributes:
        kind: `NAME`, `TIMM`, or `FILE`.
        name: the name of a classifier, the name or the folder of a model of timm, or the path of a Python file.
        function: the name of a function of the file; otherwise empty.
    """

    kind: str
    name: str
    function: str = ""


def parse_source(source: str) -> Source:
    """Split the text that says where a classifier comes from; whether timm has a model, only timm itself knows.

    Args:
        source: a name of `ZOO`, "timm:NAME_OR_FOLDER", or "FILE.py:FUNCTION".

    Raises:
        KeyError: if there is no classifier of that name.
        FileNotFoundError: if there is no such file.
    """
    library, _, name = source.partition(":")
    if library == TIMM and name:
        return Source(TIMM, name)
    path, _, function = source.rpartition(":")
    if path.endswith(".py") and function:
        if not Path(path).expanduser().is_file():
            raise FileNotFoundError(f"{path!r} is not a file; pass FILE.py:FUNCTION")
        return Source(FILE, path, function)
    if source in ZOO:
        return Source(NAME, source)
    question = suggestion(source, ZOO)
    hint = f"{question} " if question else ""
    raise KeyError(
        f"no classifier {source!r}; {hint}the names are {', '.join(ZOO)}. For a model of your own, pass "
        "FILE.py:FUNCTION, a function that returns the model and its class names, or use Classifier(model, class_names)"
    )
