"""A VGG-like network small enough to train in seconds: four 3x3 convolutions, one linear layer."""

from torch import nn

from compactnets.models.resnet import initialize


def vgg_mini(width: int = 64, stem_stride: int = 1, classes: int = 10) -> nn.Sequential:
    """Convolutions of w, w, 2w, 2w channels, a 2x2 max-pooling after the second and the fourth.

    Hardtanh in place of ReLU, so that a 1-bit layer behind it sees both signs. Images (N, 3, 32,
    32) -> logits (N, classes). ValueError for sizes below 1.
    """
    if min(width, stem_stride, classes) < 1:
        raise ValueError(f"width {width}, stem_stride {stem_stride}, classes {classes} must be > 0")
    layers: list[nn.Module] = []
    channels = 3
    for i, outputs in enumerate((width, width, 2 * width, 2 * width)):
        stride = stem_stride if i == 0 else 1
        layers.append(nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False))
        layers += [nn.MaxPool2d(2)] * (i % 2)
        layers += [nn.BatchNorm2d(outputs), nn.Hardtanh()]
        channels = outputs
    side = -(-32 // stem_stride) // 4
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, classes))
    initialize(model)
    return model
