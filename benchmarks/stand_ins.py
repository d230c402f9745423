"""What stands in for the hubs and photographs of tier `paper` in a rehearsal: random weights and drawn pictures.

    with rehearsing("resnet18", folder) as hub:    # in this process only: addresses, hashes, folders of caches
        load_classifier("resnet18")                # downloads from 127.0.0.1, by the route of the original
        hub.megabytes()

Every file has the format of the original and comes by its route: torchvision's state dicts with the hash in their
name, Places' tar with its key prefixes and a hash that the caller gives, open_clip's checkpoint from its hub. Checks
stay on; what they are to find is that of the stand-in. The last layer of each classifier is fitted to drawn pictures,
so that some are read rightly and there is something to choose on.
"""

import hashlib
import http.server
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor, nn

from edittools.classifiers import Classifier
from edittools.images import load_image
from edittools.stories.photos import MSRC, SNOW_CLASSES
from edittools.stories.snow import LIVES_ON_SNOW, SNOW_EXEMPLARS
from edittools.stories.typographic import ATTACK, HOUSEHOLD_PHOTOS
from edittools.world.miniworld import scene
from edittools.zoo import downloads, imagenet
from edittools.zoo.load import load_classifier

SIZE = 224
CLIP = "RN50-quickgelu"
PLACES, PLACES_FILE = "resnet18_places365", "resnet18_places365.pth.tar"
READ = ("sports car", "ox")
"""What drawn photos with concept masks are read as: two in three as the first."""

SHOWN = {"car": 7, "bicycle": 2, "boat": 4}  # concepts of the synthetic benchmark and their channels in DeepLab
FOLDER_CLASSES = 4  # so many classes of a validation folder have pictures
_GRASS, _SKY = ("grass", "road", "water"), ("sky", "building", "tree")
SEGMENTED = [(below, above) for below in _GRASS for above in _SKY] + 2 * [
    *(("grass", above) for above in ("sky", *_SKY)),
    *((below, "sky") for below in _GRASS),
]
"""What is below and above in each drawn MSRC photo: the first nine give the materials, the others are probed."""


@dataclass
class Hub:
    """A server on loopback: files by path, how many bytes it sent, and which paths were asked for."""

    address: str = ""
    files: dict[str, Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: int = 0

    def megabytes(self, finder: bool = True) -> float:
        """The weights that were downloaded so far, in MB, each file once; without the `finder`'s, the classifier's."""
        asked = [self.files[path.strip("/")] for path in dict.fromkeys(self.asked)]
        return sum(path.stat().st_size for path in asked if finder or not path.name.startswith("deeplab")) / 1e6

    def serve(self, path: str, file: Path) -> str:
        """Serve a file at a path, and give its address."""
        self.files[path] = file
        return f"{self.address}/{path}"


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub on 127.0.0.1, with the headers that Hugging Face's client asks for."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def _head(self) -> Path | None:
            file = hub.files.get(self.path.strip("/"))
            if file is None:
                self.send_error(404)
                return None
            self.send_response(200)
            self.send_header("Content-Length", str(file.stat().st_size))
            self.send_header("ETag", f'"{digest(file)}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            return file

        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            if file := self._head():
                hub.asked.append(self.path)
                hub.sent += file.stat().st_size
                self.wfile.write(file.read_bytes())

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- drawn photographs -------------------------------------------------------------------------------------------


def drawn_photos(folder: Path, images: int) -> dict[str, tuple[str, str]]:
    """Draw a few of the registered photos into a folder that `EDITTOOLS_PHOTOS` may name; give the registry for them.

    All names stay registered, since a class's number is its place among them. About `images` of each kind are drawn.
    """
    known, chosen = dict(downloads.registry()), []
    sample = [name for name in known if name.startswith("imagenet-sample/")]
    words = [*SNOW_EXEMPLARS.values(), "can_opener", ATTACK, *(w.replace(" ", "_") for w in LIVES_ON_SNOW[:4])]
    chosen += [name for name in sample if any(word in name for word in words)]
    chosen += [name for name in sample if name not in chosen][:: len(sample) // images]
    snow = [name for name in known if name.startswith("editing-classifiers/snow/")]
    chosen += [n for kind in SNOW_CLASSES for n in [m for m in snow if f"/{kind}/" in m][: -(-images // 7)]]
    chosen += [n for n in known if n.endswith("snow_texture.jpg") or "/typographic/" in n]
    chosen += sorted(name for name in known if name.startswith("msrc-v2/Images/"))[: len(SEGMENTED)]
    written = [name for name in known if name.startswith("rta-100/")]
    chosen += written[:: len(written) // images]
    segmented = iter(SEGMENTED)
    for i, name in enumerate(chosen):
        picture = _draw(folder / name, i)
        if name.startswith("msrc-v2/"):
            name = name.replace("Images/", "newsegmentations_mats/").replace(".bmp", "_GT.mat")
            _segment(folder / name, picture.size, *next(segmented))
    drawn = [path for path in folder.rglob("*") if path.is_file()]
    return known | {str(path.relative_to(folder)): (digest(path), "http://127.0.0.1:9") for path in drawn}


def _draw(path: Path, seed: int, size: int = 96) -> Image.Image:
    """A MiniWorld scene of the seed, as a file of the kind that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (scene(seed, size=size).image.permute(1, 2, 0) * 255).round().byte().numpy()
    picture = Image.fromarray(pixels).resize((256, 256))
    picture.save(path)
    return picture


def _segment(path: Path, size: tuple[int, int], below: str, above: str) -> None:
    """Say that one background is above, another below, in MSRC's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    regions = np.ones(size[::-1], np.uint8)
    regions[size[1] // 2 :] = 2
    savemat(path, {"newseg": regions, "newlabels": np.array([[MSRC.index(n) + 1 for n in (above, below)]])})


def validation_folder(folder: Path, classes: int, per_class: int = 6) -> None:
    """A folder as of ImageNet's or Places' validation images; only the first few classes have pictures."""
    for number in range(classes):
        (folder / f"{number:04}").mkdir(parents=True)
    for number in range(FOLDER_CLASSES):
        for i in range(per_class):
            _draw(folder / f"{number:04}" / f"{i}.png", 1000 + 100 * number + i)


def labelled(photos: Path, folder: Path, known: Mapping[str, Any], classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Every drawn picture `(N, 3, 224, 224)` that a classifier with these classes is to read, and as what."""
    places = {int(path.name): path for path in sorted(folder.iterdir())} if folder.exists() else {}
    shown = {path: number for number, group in places.items() for path in sorted(group.iterdir())}
    on_imagenet = tuple(classes) == imagenet.imagenet_classes()
    number = {name: i for i, name in enumerate(sorted(n for n in known if n.startswith("imagenet-sample/")))}
    read = [classes.index(word) for word in READ] if on_imagenet else [FOLDER_CLASSES, FOLDER_CLASSES + 1]
    for i, path in enumerate(sorted(p for p in photos.rglob("*") if p.is_file() and p.suffix != ".mat")):
        name, parts = str(path.relative_to(photos)), path.relative_to(photos).parts
        if parts[0] == "msrc-v2":
            shown[path] = read[i % 3 // 2]
        elif on_imagenet and name in number:
            shown[path] = number[name]
        elif on_imagenet and len(parts) == 4 and i % 2:  # every other photo of snow is misread
            shown[path] = SNOW_CLASSES[parts[2]]
        elif on_imagenet and parts[1] == "typographic" and path.stem.endswith("_clean"):
            shown[path] = classes.index(HOUSEHOLD_PHOTOS[path.stem.removesuffix("_clean")])
    return torch.stack([load_image(path, SIZE, 256) for path in shown]), torch.tensor([*shown.values()])


# --- random weights ----------------------------------------------------------------------------------------------


def fitted(keys: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The least weights `(classes, D + 1)`, the last for a bias, that give each key 1 for its label and else 0."""
    keys = keys.double()
    scale = keys.norm(dim=1).mean()  # so that the bias is worth as much as a key
    padded = torch.cat([keys / scale, torch.ones(len(keys), 1, dtype=torch.double)], dim=1)
    wanted = torch.nn.functional.one_hot(labels, classes).double()
    gram = padded @ padded.T
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
    found = (padded.T @ torch.linalg.solve(gram + ridge, wanted)).T
    return torch.cat([found[:, :-1] / scale, found[:, -1:]], dim=1).float()


@torch.no_grad()
def fit_head(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Fit the last linear layer of a random network to pictures, so that it reads them rightly."""
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    classifier, keys = Classifier(model, list(map(str, range(head.out_features)))), []
    hook = head.register_forward_hook(lambda module, given, out: keys.append(given[0]))
    try:
        for part in images.split(8):
            classifier(part)
    finally:
        hook.remove()
    found = 20 * fitted(torch.cat(keys), labels, head.out_features)
    head.weight.copy_(found[:, :-1])
    head.bias.copy_(found[:, -1])


def torchvision_weights(name: str, images: Tensor, labels: Tensor, folder: Path) -> Path:
    """A state dict in torchvision's format, with the beginning of its hash in its name, as torchvision checks it."""
    from torchvision.models import get_model

    model = get_model(name)
    fit_head(model, images, labels)
    return hashed(model.state_dict(), folder, name)


def hashed(state: Mapping[str, Tensor], folder: Path, name: str) -> Path:
    """Save weights with the first digits of their hash in the name of the file."""
    path = folder / f"{name}.pth"
    torch.save(state, path)
    return path.rename(folder / f"{name}-{digest(path)[:8]}.pth")


def places_weights(images: Tensor, labels: Tensor, folder: Path) -> Path:
    """A tar as of Places' authors: the weights of a model in `DataParallel`, beside what training left."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=365)
    fit_head(model, images, labels)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    path = folder / PLACES_FILE
    torch.save({"epoch": 90, "arch": "resnet18", "state_dict": state, "best_prec1": 0.0}, path)
    return path


@torch.no_grad()
def deeplab_weights(images: Tensor, folder: Path) -> Path:
    """DeepLab's state dict: half of what it sees in a picture is one of `SHOWN`, nothing else is anywhere."""
    from torchvision.models.segmentation import deeplabv3_resnet50

    model = deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True).eval()
    last = model.classifier[-1]
    last.weight.zero_()
    last.bias.fill_(-1e4)
    for channel in SHOWN.values():
        last.weight[channel].normal_()
    seen = model(images[:2])["out"]
    scale = 20 / seen[:, list(SHOWN.values())].std()
    last.weight.mul_(scale)
    for channel in SHOWN.values():
        last.bias[channel] = -(seen[:, channel] + 1e4).median() * scale
    return hashed(model.state_dict(), folder, "deeplabv3_resnet50_coco")


@torch.no_grad()
def clip_weights(images: Tensor, labels: Tensor, classes: int, folder: Path) -> tuple[Path, Tensor]:
    """A checkpoint as open_clip's hub has it, and embeddings of class names `(classes, D)` that fit the pictures."""
    import open_clip
    from safetensors.torch import save_file

    clip = open_clip.create_model(CLIP).eval()
    for name, weight in clip.named_parameters():  # they start at 0, where no convolution before them has a say
        if name.endswith("bn3.weight"):
            weight.fill_(1)
    tower = Classifier(
        clip.visual, list(map(str, range(clip.visual.output_dim))), clip.visual.image_mean, clip.visual.image_std, SIZE
    )
    keys = nn.functional.normalize(torch.cat([tower(part) for part in images.split(8)]), dim=-1)
    path = folder / "open_clip_model.safetensors"
    save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, path)
    return path, names_for(keys, labels, classes)


def names_for(keys: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Embeddings of class names `(classes, D)` of which each key `(N, D)` is nearest, by the angle, to its label's.

    Embeddings of pictures by random weights all lie near one direction. That is left out, and names that no key has
    point away from it.
    """
    common = nn.functional.normalize(keys.mean(dim=0), dim=0)
    named = fitted(keys - (keys @ common)[:, None] * common, labels, classes)[:, :-1]
    return torch.where(torch.isin(torch.arange(classes), labels)[:, None], named, -common)


# --- the routes --------------------------------------------------------------------------------------------------


@contextmanager
def rehearsing(name: str, folder: Path, images: int = 7, finder: bool = True) -> Iterator[Hub]:
    """In this process, let a hub on loopback and drawn photos stand in for all that classifier `name` needs.

    Patched are addresses and hashes to look for, never whether they are looked for, and the folders of all caches. The
    weights are not loaded yet. `images` of each kind of photo are drawn; the `finder` is DeepLab.
    """
    torch.manual_seed(0)
    photos, everyday, served = (folder / part for part in ("photos", "everyday", "served"))
    served.mkdir(parents=True)
    known = drawn_photos(photos, images)
    classes = list(map(str, range(365))) if name == PLACES else imagenet.imagenet_classes()
    validation_folder(everyday, len(classes))
    pictures, labels = labelled(photos, everyday, known, classes)
    caches = {"EDITTOOLS_CACHE": "cache", "TORCH_HOME": "torch", "EDITTOOLS_PHOTOS": "photos"}
    places = {variable: str(folder / part) for variable, part in caches.items()}
    with serving() as hub, ExitStack() as patches:
        patches.enter_context(patch.dict("os.environ", places | {"EDITTOOLS_IMAGENET": str(everyday)}))
        patches.enter_context(patch.object(downloads, "registry", lambda: known))
        patches.enter_context(patch("edittools.stories.photos.registry", lambda: known))
        if finder:
            from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

            found = deeplab_weights(pictures, served)
            patches.enter_context(weights_route(hub, DeepLabV3_ResNet50_Weights.DEFAULT, found))
        if name == "clip_rn50":
            route = _clip_route(hub, folder, *clip_weights(pictures, labels, len(classes), served))
        elif name == PLACES:
            route = places_route(hub, places_weights(pictures, labels, served))
        else:
            from torchvision.models import get_model_weights

            made = torchvision_weights(name, pictures, labels, served)
            route = weights_route(hub, get_model_weights(name).IMAGENET1K_V1, made)
        patches.enter_context(route)
        yield hub


@contextmanager
def weights_route(hub: Hub, weights: Any, file: Path) -> Iterator[None]:
    """Torchvision asks the hub for these weights, by the name of the file that holds its hash."""
    with patch.object(weights.value, "url", hub.serve(file.name, file)):
        yield


@contextmanager
def places_route(hub: Hub, file: Path, sha256: str | None = None) -> Iterator[None]:
    """The first load downloads with a hash, as a user does once; every other finds the file in the cache."""
    with patch.object(imagenet, "PLACES365_URL", hub.serve(file.name, file)):
        load_classifier(PLACES, sha256=sha256 or digest(file))
        yield


@contextmanager
def _clip_route(hub: Hub, folder: Path, file: Path, embeddings: Tensor) -> Iterator[None]:
    """Hugging Face's client asks the hub; the text tower gives what fits the pictures, since texts take minutes."""
    import open_clip

    config = open_clip.pretrained.get_pretrained_cfg(CLIP, "openai")
    hub.serve(f"{config['hf_hub'].strip('/')}/resolve/main/{file.name}", file)
    addresses = {"ENDPOINT": hub.address, "HF_HUB_CACHE": str(folder / "huggingface"), "HF_HUB_OFFLINE": False}
    addresses["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    rows = cycle(embeddings.repeat_interleave(4, dim=0))  # four templates
    told = lambda clip, tokens: torch.stack([next(rows) for _ in tokens])  # noqa: E731
    with patch.multiple("huggingface_hub.constants", **addresses), patch.object(open_clip.CLIP, "encode_text", told):
        yield
