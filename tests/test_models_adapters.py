"""Adapters to timm and torchvision, and the loader of public CIFAR weights."""

import pytest
import torch

from compactnets import models, seeds


def in_public_layout(model) -> dict[str, torch.Tensor]:
    """The model's weights under akamaster/pytorch_resnet_cifar10's names, without counters."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("stem.conv", "conv1").replace("stem.bn", "bn1")
        key = key.replace("stage", "layer").replace("fc.", "linear.")
        if not key.endswith("num_batches_tracked"):
            state[f"module.{key}"] = value
    return state


@pytest.fixture
def trained():
    with seeds.scoped(0):
        model = models.resnet_cifar(14)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_()
    return model.eval()


def test_public_weights_find_their_places(trained, tmp_path):
    path = tmp_path / "resnet14.th"
    torch.save({"state_dict": in_public_layout(trained), "best_prec1": 91.0}, path)
    loaded = models.load_public_resnet(path)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not loaded.training
    assert torch.equal(loaded(images), trained(images))


@pytest.mark.parametrize("change", ["missing", "unknown", "another shape"])
def test_weights_that_do_not_fit_are_named(trained, tmp_path, change):
    state = in_public_layout(trained)
    if change == "missing":
        del state["module.layer2.0.conv1.weight"]
    elif change == "unknown":
        state["module.extra"] = torch.zeros(1)
    else:
        state["module.linear.bias"] = torch.zeros(11)
    torch.save({"state_dict": state}, tmp_path / "w.th")
    with pytest.raises(ValueError, match=rf"{change} \['(stage2.0.conv1.weight|extra|fc.bias)'"):
        models.load_public_resnet(tmp_path / "w.th")


def test_a_truncated_checkpoint_is_refused_with_its_path(trained, tmp_path):
    path = tmp_path / "w.th"
    torch.save({"state_dict": in_public_layout(trained)}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"w\.th is not a readable checkpoint, fetch it again"):
        models.load_public_resnet(path)


def test_a_file_that_is_missing_or_holds_something_else_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.th"):
        models.load_public_resnet(tmp_path / "nothing.th")
    torch.save([1, 2], tmp_path / "list.th")
    with pytest.raises(ValueError, match="no 'state_dict'"):
        models.load_public_resnet(tmp_path / "list.th")


@pytest.mark.parametrize(
    ("adapter", "name", "near"),
    [
        (models.from_timm, "resnet51", "resnet50"),
        (models.from_torchvision, "mobilnet_v2", "mobilenet_v2"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(adapter, name, near):
    with pytest.raises(ValueError, match=rf"no model '{name}'.*{near}"):
        adapter(name)


def test_adapters_honor_classes_channels_and_options():
    with torch.device("meta"):
        model = models.from_torchvision("resnet18", classes=5)
        assert model.fc.out_features == 5
        model = models.from_timm("resnet18", classes=6, in_channels=1)
        assert model.fc.out_features == 6
        assert model.conv1.in_channels == 1
        assert models.from_timm("resnet18").fc.out_features == 1000
        with pytest.raises(TypeError, match="widht"):
            models.from_timm("resnet18", widht=2)
        with pytest.raises(TypeError, match="widht"):
            models.from_torchvision("resnet18", widht=2)


def test_nothing_is_downloaded_unless_asked(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    with torch.device("meta"):
        models.from_torchvision("squeezenet1_1")
        models.from_timm("mobilenetv3_small_050")


def test_pretrained_torchvision_weights_come_with_their_own_classes():
    with pytest.raises(ValueError, match="1000 classes, not 10"):
        models.from_torchvision("resnet18", pretrained=True, classes=10)
