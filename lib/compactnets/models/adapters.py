"""Large networks from timm and torchvision, and public CIFAR weights in our names."""

import difflib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.models.resnet import ResNetCifar, resnet_cifar

# What the public CIFAR ResNets were trained with: ImageNet's mean and deviation of [0, 1] images.
PUBLIC_CIFAR_MEAN = (0.485, 0.456, 0.406)
PUBLIC_CIFAR_STD = (0.229, 0.224, 0.225)


def _unknown(library: str, name: str, known: Iterable[str]) -> ValueError:
    near = difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)
    hint = f"near matches: {', '.join(near)}" if near else "nothing has a similar name"
    return ValueError(f"{library} has no model {name!r}; {hint}")


def from_timm(
    name: str,
    pretrained: bool = False,
    classes: int | None = None,
    in_channels: int = 3,
    **options: Any,
) -> nn.Module:
    """A timm classifier by its name; options go to its constructor, which refuses unknown ones.

    classes=None: as many as the model is published with. pretrained=True downloads (or takes from
    its cache) timm's weights; with another number of classes the last layer is new. ValueError with
    near matches for an unknown name.
    """
    import timm  # two seconds, needed by few pages

    if name.split(".")[0] not in (known := timm.list_models()):
        raise _unknown("timm", name, known)
    if classes is not None:
        options["num_classes"] = classes
    return timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)


def from_torchvision(
    name: str, pretrained: bool = False, classes: int | None = None, **options: Any
) -> nn.Module:
    """A torchvision classifier by its name; options go to its constructor, classes=None: 1000.

    pretrained=True downloads (or takes from its cache) torchvision's default weights, which have
    1000 classes: ValueError if other ones are asked for, replace the last layer afterwards.
    """
    from torchvision import models

    if name not in (known := models.list_models(module=models)):
        raise _unknown("torchvision", name, known)
    if pretrained and classes not in (None, 1000):
        raise ValueError(
            f"torchvision's weights of {name!r} have 1000 classes, not {classes}: "
            "load them without classes and replace the last layer"
        )
    if classes is not None:
        options["num_classes"] = classes
    return models.get_model(name, weights="DEFAULT" if pretrained else None, **options)


def load_public_resnet(path: Path | str) -> ResNetCifar:
    """A CIFAR-10 ResNet (option A, width 16) from a checkpoint file in the layout of
    akamaster/pytorch_resnet_cifar10, e.g. resnet20-12fca82f.th; in evaluation mode.

    The depth follows from the file. Images have to be normalized with PUBLIC_CIFAR_MEAN and
    PUBLIC_CIFAR_STD. The first 8 hex digits of the file's sha256 are in its name; checking them is
    the caller's task. FileNotFoundError, or ValueError if the file is damaged or holds something
    else: every tensor must find its place.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is not a readable checkpoint, fetch it again: {error}") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no 'state_dict'")
    weights = {_our_name(key): value for key, value in state.items()}
    blocks = {key.split(".")[1] for key in weights if key.startswith("stage1.")}
    model = resnet_cifar(6 * max(len(blocks), 1) + 2)
    _load_exactly(model, weights, path)
    return model.eval()


def _our_name(key: str) -> str:
    key = key.removeprefix("module.")
    for theirs, ours in (("layer", "stage"), ("linear.", "fc.")):
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key.replace("conv1.", "stem.conv.", 1).replace("bn1.", "stem.bn.", 1)


def _load_exactly(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Strict, but for BN's step counters, which old checkpoints lack and evaluation ignores."""
    own = model.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - counters - weights.keys())
    surplus = sorted(weights.keys() - own.keys())
    wrong = sorted(k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape)
    if missing or surplus or wrong:
        raise ValueError(
            f"{path} is not a CIFAR ResNet in the expected layout: missing {missing[:3]}, "
            f"unknown {surplus[:3]}, of another shape {wrong[:3]}"
        )
    model.load_state_dict(weights, strict=False)
