"""Deconvnet against the paper's own steps: switches, unpool, rectify, transposed filters.

The reference walks back a plain `nn.Sequential`, layer by layer, in float64, without autograd.
"""

from __future__ import annotations

import pytest
import torch
import torchvision
from nets import images, rectifying, spread
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import CamlibWarning, Deconvnet, InputError, LayerError, OptionError, TargetError


def summed(signal: Tensor, switches: Tensor, before: Tensor, _pool: nn.MaxPool2d) -> Tensor:
    """Unpooling in which signals that meet at one maximum add up."""
    image = torch.zeros_like(before)
    for n in range(image.shape[0]):
        for k in range(image.shape[1]):
            image[n, k].view(-1).index_add_(0, switches[n, k].flatten(), signal[n, k].flatten())
    return image


def overwritten(signal: Tensor, switches: Tensor, before: Tensor, pool: nn.MaxPool2d) -> Tensor:
    """Unpooling in which the last signal to reach a maximum stays."""
    return F.max_unpool2d(
        signal, switches, pool.kernel_size, pool.stride, pool.padding, before.shape[2:]
    )


@torch.no_grad()
def forward(layers: nn.Sequential, image: Tensor) -> list[Tensor]:
    """The input and the output of every layer."""
    seen = [image]
    for layer in layers:
        seen.append(layer(seen[-1].clone()))
    return seen


@torch.no_grad()
def project(layers: nn.Sequential, seen: list[Tensor], signal: Tensor, unpool=summed) -> Tensor:
    """`signal`, at the output of `layers`, brought down to the pixels."""
    for layer, before in reversed(list(zip(layers, seen, strict=False))):
        if isinstance(layer, nn.Conv2d):
            size = [
                (signal.shape[d] - 1) * layer.stride[d - 2]
                - 2 * layer.padding[d - 2]
                + layer.kernel_size[d - 2]
                for d in (2, 3)
            ]
            signal = F.conv_transpose2d(
                signal,
                layer.weight,
                stride=layer.stride,
                padding=layer.padding,
                output_padding=[before.shape[2] - size[0], before.shape[3] - size[1]],
            )
        elif isinstance(layer, nn.ReLU):
            signal = signal * (signal > 0)
        elif isinstance(layer, nn.MaxPool2d):
            _, switches = F.max_pool2d(
                before, layer.kernel_size, layer.stride, layer.padding, return_indices=True
            )
            signal = unpool(signal, switches, before, layer)
        elif isinstance(layer, nn.Flatten):
            signal = signal.reshape(before.shape)
        elif isinstance(layer, nn.Linear):
            signal = signal @ layer.weight
        else:
            raise AssertionError(layer)
    return signal


def strongest(activation: Tensor, channel: int) -> Tensor:
    """`activation` at the largest unit of a channel of each sample, zero elsewhere."""
    start = torch.zeros_like(activation)
    for n, sample in enumerate(activation):
        height, width = sample[channel].shape
        i, j = max(
            ((i, j) for i in range(height) for j in range(width)),
            key=lambda at: float(sample[channel][at]),
        )
        start[n, channel, i, j] = sample[channel, i, j]
    return start


def only(activation: Tensor, *place: int) -> Tensor:
    """`activation` at a channel, or at a unit, zero elsewhere."""
    start = torch.zeros_like(activation)
    start[(slice(None), *place)] = activation[(slice(None), *place)]
    return start


def torchvision_net(name: str) -> nn.Module:
    """A network with its own features and a small classifier, so that it is built in no time."""
    with torch.device("meta"):
        net = getattr(torchvision.models, name)(weights=None)
        net.avgpool = nn.AdaptiveAvgPool2d(1)
        [*_, last] = [layer for layer in net.features if isinstance(layer, nn.Conv2d)]
        net.classifier = nn.Linear(last.out_channels, 5)
    return spread(net.to_empty(device="cpu")).double()


def sequential(*, overlap: bool = False, bias: bool = True) -> nn.Sequential:
    """A small VGG, without adaptive pooling."""
    pool = nn.MaxPool2d(3, 2) if overlap else nn.MaxPool2d(2)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        pool,
        nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * (9 if overlap else 16), 12, bias=bias),
        nn.ReLU(),
        nn.Linear(12, 4, bias=bias),
    )
    return spread(net).double()


def pictures(count: int = 2, size: int = 14) -> Tensor:
    return images(count, size, size).double()


STARTS = {
    "unit": ({"unit": (6, 1, 2)}, lambda activation: only(activation, 6, 1, 2)),
    "strongest unit": ({"unit": 5}, lambda activation: strongest(activation, 5)),
    "channel": ({"channel": 5}, lambda activation: only(activation, 5)),
    "channel from the end": ({"channel": -1}, lambda activation: only(activation, -1)),
}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: torchvision_net(name) for name in ("vgg11", "vgg16", "alexnet")}


@pytest.mark.parametrize(("options", "start"), STARTS.values(), ids=STARTS)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vgg16", 28),  # a convolution, overwritten by the ReLU after it
        ("vgg16", 29),  # that ReLU
        ("vgg16", 16),  # a pooling layer
        ("vgg11", 18),
        ("vgg11", 6),
        ("alexnet", 10),  # below it 3x3 windows with stride 2, which overlap
        ("alexnet", 5),
    ],
)
def test_a_torchvision_network_is_projected_as_in_the_paper(networks, name, layer, options, start):
    net = networks[name]
    batch = pictures(1, 127 if name == "alexnet" else 64)
    layers = net.features[: layer + 1]
    seen = forward(layers, batch)
    begun = start(seen[-1])
    found = Deconvnet(net, f"features.{layer}").explain(batch, **options)
    assert begun.any()
    torch.testing.assert_close(found.heatmap, project(layers, seen, begun), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.score, begun.sum((1, 2, 3)))
    torch.testing.assert_close(found.output, net(batch))
    assert (found.layers, found.target, found.method) == ((f"features.{layer}",), None, "Deconvnet")
    assert found.size == batch.shape[2:]


def test_signals_that_meet_in_overlapping_windows_are_summed_and_not_overwritten(networks):
    net = networks["alexnet"]
    batch = pictures(2, 127)
    layers = net.features[:11]
    seen = forward(layers, batch)
    found = Deconvnet(net, "features.10")(batch, channel=5)
    other = project(layers, seen, only(seen[-1], 5), overwritten)
    assert (found - other).norm() > 0.1 * other.norm()


@pytest.mark.parametrize("overlap", [False, True])
def test_a_class_is_projected_from_the_output(overlap):
    net = sequential(overlap=overlap)
    batch = pictures(3)
    classes = [2, 0, 3]
    seen = forward(net, batch)
    start = F.one_hot(torch.tensor(classes), 4).double()
    found = Deconvnet(net).explain(batch, classes)
    torch.testing.assert_close(found.heatmap, project(net, seen, start), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.score, net(batch)[range(3), classes])
    assert found.target.tolist() == classes
    assert found.layers == ()


def test_several_classes_equal_single_calls():
    net = sequential()
    batch = pictures()
    together = Deconvnet(net).explain(batch, [[1, 2], [3, 0]])
    assert together.heatmap.shape == (2, 2, 3, 14, 14)
    for k, classes in enumerate([[1, 3], [2, 0]]):
        alone = Deconvnet(net).explain(batch, classes)
        torch.testing.assert_close(together.heatmap[:, k], alone.heatmap)
        torch.testing.assert_close(together.score[:, k], alone.score)


def test_without_a_target_the_predicted_class_is_projected():
    net = sequential()
    found = Deconvnet(net).explain(pictures())
    assert torch.equal(found.target, net(pictures()).argmax(1))


@pytest.mark.parametrize("options", [{"unit": 3}, {"unit": (3, 0, 2)}, {"channel": 3}])
def test_a_batch_equals_each_sample_alone(options):
    net = sequential(overlap=True)
    batch = pictures(4)
    found = Deconvnet(net, "4")(batch, **options)
    alone = [Deconvnet(net, "4")(batch[n : n + 1], **options)[0] for n in range(4)]
    torch.testing.assert_close(found, torch.stack(alone))


def test_the_picture_is_positively_homogeneous():
    net = sequential(overlap=True, bias=False)
    deconvnet = Deconvnet(net, "4")
    once = deconvnet(pictures(), channel=2)
    torch.testing.assert_close(deconvnet(3 * pictures(), channel=2), 3 * once)
    assert once.any()


def test_the_picture_of_a_channel_is_not_the_sum_of_its_units():
    net = sequential()
    deconvnet = Deconvnet(net, "3")
    batch = pictures()
    together = deconvnet(batch, channel=2)
    apart = sum(deconvnet(batch, unit=(2, i, j)) for i in range(4) for j in range(4))
    assert (together - apart).norm() > 0.01 * together.norm()


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2)])
def test_pooling_is_undone_by_its_switches(kernel, stride):
    net = nn.Sequential(nn.MaxPool2d(kernel, stride), nn.Flatten(), nn.Linear(108, 2)).double()
    batch = pictures(2, 12 if stride == kernel else 13)
    pooled, switches = F.max_pool2d(batch, kernel, stride, return_indices=True)
    unpooled = F.max_unpool2d(
        only(pooled, 1), switches, kernel, stride, output_size=batch.shape[2:]
    )
    with pytest.warns(CamlibWarning, match="^Deconvnet met no ReLU"):
        found = Deconvnet(net, "0")(batch, channel=1)
    assert torch.equal(found, unpooled) == (stride == kernel)


def test_a_convolution_is_undone_by_its_transpose_without_bias():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 36, 2))
    net = spread(net).double()
    batch = pictures(2, 6)
    start = only(net[0](batch).detach(), 2)
    with pytest.warns(CamlibWarning, match="^Deconvnet met no ReLU"):
        found = Deconvnet(net, "0")(batch, channel=2)
    expected = F.conv_transpose2d(start, net[0].weight.detach(), padding=1)
    torch.testing.assert_close(found, expected)


ONE_OF = (
    r"^Deconvnet from layer '3' needs one of unit= and channel=, and no target; for a class, build "
    "it without a layer$"
)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"unit": 1, "channel": 1}, {"target": 1}, {"target": 1, "unit": 1}],
    ids=str,
)
def test_a_layer_takes_either_a_unit_or_a_channel(arguments):
    with pytest.raises(InputError, match=ONE_OF):
        Deconvnet(sequential(), "3")(pictures(), **arguments)


@pytest.mark.parametrize("arguments", [{"unit": 1}, {"channel": 1}, {"target": 1, "unit": 0}])
def test_a_unit_needs_a_layer(arguments):
    with pytest.raises(InputError, match=r"need a layer: Deconvnet\(model, layer\)$"):
        Deconvnet(sequential())(pictures(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "index"),
    [
        ({"unit": 8}, "8"),
        ({"channel": -9}, "-9"),
        ({"unit": (2, 4, 0)}, r"\(2, 4, 0\)"),
        ({"unit": (2, 0)}, r"\(2, 0\)"),
    ],
    ids=str,
)
def test_a_unit_that_is_not_there(arguments, index):
    message = (
        rf"^there is no unit {index} in layer '3' of shape \(8, 4, 4\); pass a channel, or a "
        "channel and a position$"
    )
    with pytest.raises(TargetError, match=message):
        Deconvnet(sequential(), "3")(pictures(), **arguments)


def test_a_layer_that_is_not_there():
    with pytest.raises(LayerError, match=r"^layer '9' not found in Sequential; there are '0', "):
        Deconvnet(sequential(), "9")


def test_channel_is_an_integer_and_no_position():
    for options in ({"unit": 1.5}, {"channel": "conv"}, {"channel": (1, 2, 3)}):
        with pytest.raises(OptionError, match=r"=.* is of type \w+; expected an integer"):
            Deconvnet(rectifying().features, "0")(images(), **options)
