"""Where a model looks that goes several ways, or a way that the image itself decides.

One place is bright, so the right map is known. A map is right, or the layer is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from one_bright_place import PATCH, Cells, answer, assert_right, patches, planted
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import CamlibError, GradCAM, HiResCAM, LayoutError, TargetError, targets

STARTS: Cells = [(24, 48), (16, 40)]


class Does(nn.Module):
    """`function` of the model itself, with its parts by name, and an image."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)
        self.eval()

    def forward(self, batch: Tensor) -> Tensor:
        return self.function(self, batch)


def whole_first(net: nn.Module, batch: Tensor) -> Tensor:
    whole, cut = net.whole(batch), net.cut(batch[..., 16:48, 32:80])
    return answer(cut[:, 0]) + answer(whole[:, 0])


def cut_first(net: nn.Module, batch: Tensor) -> Tensor:
    cut, whole = net.cut(batch[..., 16:48, 32:80]), net.whole(batch)
    return answer(cut[:, 0]) + answer(whole[:, 0])


@pytest.mark.parametrize("way", [whole_first, cut_first])
@pytest.mark.parametrize("layer", ["whole", "cut"])
def test_a_branch_sees_a_part_and_another_the_whole(way, layer):
    net = Does(way, whole=patches(), cut=patches())
    heatmaps = HiResCAM(net, layer)(planted((64, 96), STARTS), 1)
    assert_right(heatmaps, STARTS)


@pytest.mark.parametrize(
    "cut",
    [
        lambda f: f[..., 4:, 8:],
        lambda f: f[..., 2:-2, 4:],
        lambda f: F.relu(f[..., 4:, :])[..., 8:],
        lambda f: f.narrow(2, 4, 12).narrow(3, 8, 16),
    ],
)
def test_features_that_are_cut_lie_where_they_were(cut):
    net = Does(
        lambda net, batch: answer(net.last(cut(net.first(batch)))[:, 0]),
        first=patches(size=4),
        last=patches(channels=5, size=2),
    )
    starts = [(40, 72), (24, 48)]
    heatmaps = HiResCAM(net, "last")(planted((64, 96), starts), 1)
    assert_right(heatmaps, starts)


class Glimpse(nn.Module):
    """Cuts each image around its brightest patch, as a model with hard attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = patches()

    def forward(self, batch: Tensor) -> Tensor:
        glimpses = []
        for one in batch:
            bright = F.avg_pool2d(one.mean(0)[None, None], PATCH)[0, 0]
            row, column = divmod(int(bright.argmax()), bright.shape[1])
            row, column = min(max(8 * row - 8, 0), 32), min(max(8 * column - 16, 0), 48)
            glimpses.append(one[:, row : row + 32, column : column + 48])
        return answer(self.layer(torch.stack(glimpses))[:, 0])


def test_what_an_image_shows_decides_where_it_is_cut():
    starts = [(24, 56), (8, 32), (0, 0), (56, 88)]
    batch, net = planted((64, 96), starts), Glimpse().eval()
    cam = HiResCAM(net, "layer")
    for number, start in enumerate(starts):
        one = batch[number : number + 1]
        for explain in (cam, HiResCAM(net, "layer"), cam):
            heatmap = explain(one, 1)
            assert_right(heatmap, [start])
    with pytest.raises(LayoutError, match="explain one image at a time"):
        cam(batch, 1)
    same = batch[1:2].repeat(2, 1, 1, 1)
    torch.testing.assert_close(cam(same, 1), cam(batch[1:2], 1).repeat(2, 1, 1))


def test_another_cut_of_the_same_model_is_measured_anew():
    net = Does(
        lambda net, batch: answer(net.layer(batch[..., net.at[0] :, net.at[1] :])[:, 0]),
        layer=patches(),
    )
    batch = planted((64, 96), [(24, 56)])
    for net.at in ((8, 32), (24, 40), (0, 0)):
        heatmap = HiResCAM(net, "layer")(batch, 1)
        assert_right(heatmap, [(24, 56)])


@pytest.mark.parametrize("padding", [16, 64])
def test_a_convolution_that_pads_much_covers_more_than_the_image(padding):
    net = Does(
        lambda net, batch: answer(net.act(net.layer(batch))[:, 0]),
        layer=patches(padding=padding),
        act=nn.ReLU(),
    )
    starts = [(8, 8), (40, 72)]
    heatmaps = HiResCAM(net, "act")(planted((64, 96), starts), 1)
    assert_right(heatmaps, starts)


@pytest.mark.parametrize(
    "turned",
    [
        [[1.0, 0.4, 0.0], [0.0, 1.0, 0.0]],
        [[1.0, 0.0, 0.0], [-0.3, 1.0, 0.0]],
        [[0.87, 0.5, 0.0], [-0.5, 0.87, 0.0]],
    ],
)
def test_a_grid_that_lies_aslant_is_refused(turned):
    def seen(batch: Tensor) -> Tensor:
        each = torch.tensor(turned).expand(len(batch), -1, -1)
        grid = F.affine_grid(each, batch.shape, align_corners=False)
        return F.grid_sample(batch, grid, align_corners=False)

    net = Does(lambda net, batch: answer(net.layer(seen(batch))[:, 0]), layer=patches())
    with pytest.raises(LayoutError, match="agrees with where its places look"):
        HiResCAM(net, "layer")(planted((64, 96), [(8, 24), (48, 64)]), 1)


@pytest.mark.parametrize("layer", ["enlarged", None])
def test_a_grid_made_behind_a_global_pooling_is_none_of_the_image(layer):
    torch.manual_seed(0)  # of some networks, nothing passes the ReLU
    net = Does(
        lambda net, batch: net.head(
            net.enlarged(net.first(batch).mean((2, 3), keepdim=True)).relu().mean((2, 3))
        ),
        first=patches(),
        enlarged=nn.ConvTranspose2d(5, 4, 4, 4),
        head=nn.Linear(4, 2),
    )
    batch = planted((64, 96), STARTS)
    if layer:
        with pytest.raises(LayoutError, match="the layer cannot localise"):
            GradCAM(net, layer)(batch, 1)
    else:
        assert GradCAM(net).explain(batch, 1, relu=False).layers == ("first",)


def test_as_many_steps_as_samples_are_told_apart_by_a_sample_less():
    def steps(net: nn.Module, batch: Tensor) -> Tensor:
        found = net.layer(batch)[:, 0, 0].T  # (T, N), as a decoder of text returns it
        return torch.stack([-found, found], 2)

    net = Does(steps, layer=patches())
    batch = planted((8, 64), [(0, PATCH * step) for step in range(8)])
    for target in (targets.Token(5), None, 1):
        with pytest.raises(TargetError, match="the samples are on axis 1"):
            GradCAM(net, "layer")(batch, target)
    net = Does(lambda net, batch: steps(net, batch).transpose(0, 1), layer=patches())
    seen = HiResCAM(net, "layer").explain(batch, targets.Token(5, 1))
    assert seen.map.argmax(2).flatten().tolist() == [5] * 8


class Counting(nn.Module):
    """Counts how often it runs; a probability of it is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.head = patches(), nn.ReLU(), nn.Linear(5, 3)
        self.runs = 0

    def forward(self, batch: Tensor) -> Tensor:
        self.runs += 1
        return (1e6 * self.head(self.act(self.first(batch)).mean((2, 3)))).softmax(1)


@pytest.mark.filterwarnings("ignore:a map:camlib.CamlibWarning")
def test_later_calls_of_a_saturated_model_run_it_once():
    net = Counting().eval()
    cam, batch = GradCAM(net), planted((64, 96), STARTS)
    cam(batch)
    net.runs = 0
    cam(batch)
    assert net.runs == 1


def test_a_pipeline_that_returns_no_tensor_is_told_by_the_module_that_it_holds():
    class Pipeline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(patches(), nn.Flatten())
            self.copies = [patches()]

        def forward(self, batch: Tensor) -> list[list[object]]:
            self.copies[0](batch)
            return [["cat", 0.9]]

    with pytest.raises(CamlibError, match=r"pass the module in it: model\.model"):
        GradCAM(Pipeline().eval())(torch.rand(1, 3, 16, 16))
