"""VGG networks for 32x32 images: VGG-small of the binary-network papers, VGG-16 with BN."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from compactnets.models.resnet import initialize

# Simonyan and Zisserman, arXiv:1409.1556, table 1, column D.
VGG16_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_VGG16_POOLED = (1, 3, 6, 9, 12)


class VggSmall(nn.Module):
    """Six 3x3 convolutions in three pairs, each pair ends in a 2x2 max-pooling, then fc.

    conv1 .. conv6, each nn.Sequential(conv, [pool], bn, act): the pooling stands before BN, so that
    a binary activation in front of the next convolution sees the sign of normalized values. Images
    (N, in_channels, 32, 32) -> logits (N, classes). Built by vgg_small().
    """

    def __init__(
        self,
        classes: int,
        width: int,
        hidden: Sequence[int],
        in_channels: int,
        activation: Callable[[], nn.Module],
    ):
        super().__init__()
        if min(classes, width, in_channels, *hidden) < 1:
            raise ValueError(
                f"classes {classes}, width {width}, in_channels {in_channels} and hidden "
                f"{tuple(hidden)} must be positive"
            )
        channels = in_channels
        for i, factor in enumerate((1, 1, 2, 2, 4, 4)):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["conv"] = nn.Conv2d(channels, factor * width, 3, padding=1, bias=False)
            if i % 2:
                layers["pool"] = nn.MaxPool2d(2)
            layers["bn"] = nn.BatchNorm2d(factor * width)
            layers["act"] = activation()
            self.add_module(f"conv{i + 1}", nn.Sequential(layers))
            channels = factor * width
        self.flatten = nn.Flatten()
        self.fc = _classifier(channels * 4 * 4, hidden, classes)
        initialize(self)

    @property
    def stages(self) -> list[nn.Module]:
        """conv1 .. conv6 in order."""
        return [child for name, child in self.named_children() if name.startswith("conv")]

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for stage in self.stages:
            x = stage(x)
        return self.fc(self.flatten(x))


def _classifier(features: int, hidden: Sequence[int], classes: int) -> nn.Module:
    """One linear layer, or linear-BN-ReLU per hidden width and a linear layer."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        features = width
    layers.append(nn.Linear(features, classes))
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def vgg_small(
    classes: int = 10,
    width: int = 128,
    hidden: Sequence[int] = (),
    in_channels: int = 3,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> VggSmall:
    """VGG-small: convolutions of w, w, 2w, 2w, 4w, 4w channels and one linear layer, w = 128.

    The variant with a single linear layer is that of LQ-Nets (arXiv:1807.10029) and of the
    binary-network tables after it; hidden=(1024, 1024) gives the older one of BinaryConnect and BNN
    (arXiv:1511.00363, arXiv:1602.02830) with three. activation: behind each convolution's BN;
    nn.Hardtanh gives a 1-bit layer inputs of both signs, which ReLU does not.
    """
    return VggSmall(classes, width, hidden, in_channels, activation)


class VggCifar(nn.Module):
    """features: nn.Sequential of conv1, bn1, act1, conv2, ... with pools; then fc.

    Images (N, in_channels, 32, 32) -> logits (N, classes). Built by vgg16_bn_cifar().
    """

    def __init__(
        self,
        widths: Sequence[int],
        pooled: Iterable[int],
        classes: int,
        in_channels: int,
        bias: bool,
    ):
        super().__init__()
        pooled = set(pooled)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for i, width in enumerate(widths):
            layers[f"conv{i + 1}"] = nn.Conv2d(channels, width, 3, padding=1, bias=bias)
            layers[f"bn{i + 1}"] = nn.BatchNorm2d(width)
            layers[f"act{i + 1}"] = nn.ReLU()
            if i in pooled:
                layers[f"pool{i + 1}"] = nn.MaxPool2d(2)
            channels = width
        self.features = nn.Sequential(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)  # 1x1 already at 32x32 images
        self.fc = nn.Linear(channels, classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(images)).flatten(1))


def vgg16_bn_cifar(
    classes: int = 10,
    widths: Sequence[int] = VGG16_WIDTHS,
    in_channels: int = 3,
    bias: bool = True,
) -> VggCifar:
    """VGG-16 with BN and one linear layer, as the pruning papers train it on CIFAR.

    widths: channels of the 13 convolutions, e.g. what a pruning method left. bias: the
    convolutions have one although BN follows; the papers' 14.73M parameters count it.
    """
    widths = tuple(widths)
    if len(widths) != 13 or min(*widths, classes) < 1:
        raise ValueError(f"VGG-16 needs 13 positive widths and classes, got {widths}, {classes}")
    return VggCifar(widths, _VGG16_POOLED, classes, in_channels, bias)
