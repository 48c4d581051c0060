"""Which operations move places, and what a pass says of the modules that ran in it."""

from __future__ import annotations

import threading

import pytest
import torch
from nets import Net, Pooling, features, images, pooled, spread, transformer
from snapshot import snapshot
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from camlib.passes.courses import Course, Courses
from camlib.passes.visits import Visits, visits

CONV = nn.Conv2d(4, 4, 3, padding=1)
NORM = nn.BatchNorm2d(4).eval()

STAYS = {
    "convolution": CONV,
    "strided convolution": nn.Conv2d(4, 2, 3, stride=2),
    "depthwise convolution": nn.Conv2d(4, 8, 3, groups=4),
    "transposed convolution": nn.ConvTranspose2d(4, 2, 2, stride=2),
    "batch norm": NORM,
    "batch norm of the batch": nn.BatchNorm2d(4, track_running_stats=False),
    "group norm": nn.GroupNorm(2, 4),
    "relu": F.relu,
    "relu in place": lambda x: F.relu_(x.clone()),
    "gelu": F.gelu,
    "silu in place": lambda x: F.silu(x.clone(), inplace=True),
    "hardswish in place": lambda x: F.hardswish(x.clone(), inplace=True),
    "sigmoid": torch.sigmoid,
    "softmax over channels": lambda x: x.softmax(1),
    "max pooling": lambda x: F.max_pool2d(x, 2),
    "mean pooling": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, 3),
    "residual": lambda x: x + CONV(x),
    "squeeze and excitation": lambda x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(),
    "mean over places": lambda x: x - x.mean((2, 3), keepdim=True),
    "scale of channels": lambda x: x * torch.ones(4, 1, 1),
    "concatenation of channels": lambda x: torch.cat([x, CONV(x)], 1),
    "channels split": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "channels cut": lambda x: x[:, 1:],
    "enlarged": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "enlarged linearly": lambda x: F.interpolate(x, (12, 20), mode="bilinear"),
    "shrunk": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
    "dropout": F.dropout,
    "dropout of channels": F.dropout2d,
    "another dtype": lambda x: x.double().relu(),
    "another memory format": lambda x: x.contiguous(memory_format=torch.channels_last),
    "detached": lambda x: x.detach() + 1,
    "view as it was": lambda x: x.view(x.shape),
}
"""After these, each value is where it was in the image."""

INDICES = torch.tensor([3, 1, 0, 2])

MOVES = {
    "flip": lambda x: x.flip(3),
    "transpose": lambda x: x.mT,
    "axes permuted": lambda x: x.permute(0, 2, 3, 1),
    "axis moved": lambda x: x.movedim(1, -1),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "roll": lambda x: x.roll(1, 2),
    "padding": lambda x: F.pad(x, (1, 0)),
    "padding that repeats": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "padding around": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "crop": lambda x: x[:, :, 1:],
    "crop of columns": lambda x: x[..., :-1],
    "every second row": lambda x: x[:, :, ::2],
    "one row": lambda x: x[:, :, 3],
    "rows by number": lambda x: x[:, :, INDICES],
    "rows selected": lambda x: x.index_select(2, INDICES),
    "rows gathered": lambda x: x.gather(2, torch.zeros_like(x).long()),
    "rows sorted": lambda x: x.sort(2).values,
    "running sum": lambda x: x.cumsum(2),
    "reshape": lambda x: x.reshape(2, 4, 4, 16),
    "flattening": lambda x: x.flatten(2),
    "unfolding": lambda x: F.unfold(x, 2),
    "windows": lambda x: x.unfold(2, 2, 2),
    "pixels shuffled": lambda x: F.pixel_shuffle(x, 2),
    "strides": lambda x: x.as_strided((2, 4, 8, 8), (256, 64, 1, 8)),
    "concatenation of rows": lambda x: torch.cat([x, x], 2),
    "rows split": lambda x: torch.cat(x.chunk(2, 2)[::-1], 2),
    "stacked": lambda x: torch.stack([x, x], 2),
    "repeated": lambda x: x.repeat(1, 1, 2, 1),
    "written elsewhere": lambda x: torch.zeros_like(x)[:, :, 1:].copy_(x[:, :, :-1]),
    "sampled on a grid": lambda x: F.grid_sample(x, torch.zeros(2, 8, 8, 2), align_corners=False),
    "linear layer along a row": lambda x: F.linear(x, torch.ones(8, 8)),
    "matrix product": lambda x: x @ x,
    "matrix products": lambda x: torch.bmm(x[:, 0], x[:, 1]),
    "sum of products": lambda x: torch.einsum("nchw,hk->nckw", x, torch.ones(8, 8)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "attention of a module": lambda x: nn.MultiheadAttention(8, 2)(x[0], x[0], x[0])[0],
    "fourier transform": lambda x: torch.fft.fft2(x).real,
}
"""After these, a value may be anywhere."""


def followed(operation, tensor: Tensor | None = None) -> Course | None:
    """The course of what an operation makes of features ``(2, 4, 8, 8)``."""
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(2, 4, 8, 8, generator=generator) if tensor is None else tensor
    with torch.no_grad(), Courses() as courses:
        courses.set(tensor, Course())
        return courses.of(operation(tensor))


@pytest.mark.parametrize("operation", STAYS.values(), ids=STAYS)
def test_operations_that_keep_places(operation):
    assert followed(operation) == Course()


@pytest.mark.parametrize("operation", MOVES.values(), ids=MOVES)
def test_operations_that_move_places(operation):
    course = followed(operation)
    assert course.moved
    assert course.since


def test_with_a_graph_as_without():
    tensor = torch.randn(2, 4, 8, 8, requires_grad=True)
    with Courses() as courses:
        courses.set(tensor, Course())
        assert courses.of(CONV(tensor).relu()) == Course()
        assert courses.of(CONV(tensor).mT.relu()).moved


def test_only_what_comes_from_the_image_has_a_course():
    with torch.no_grad(), Courses() as courses:
        image, other = images(), torch.rand(2, 3, 8, 8)
        courses.set(image, Course())
        assert courses.of(other.flip(2)) is None
        assert courses.of(image + other.flip(2)) == Course()
        assert courses.of(torch.zeros_like(image)) is None
        assert courses.of(torch.from_numpy(image.numpy())) is None  # nobody knows


def test_views_of_the_same_memory_are_told_apart():
    with torch.no_grad(), Courses() as courses:
        image = images()
        courses.set(image, Course())
        cut = image[:, :, 2:]
        assert courses.of(cut).moved
        assert courses.of(image) == Course()
        assert courses.of(image.flatten(2).view(image.shape)) == Course()  # what it was
        frame = torch.zeros(2, 3, 12, 12)
        frame[:, :, 2:10, 2:10].copy_(image)
        assert courses.of(frame).moved
        other = torch.zeros(2, 3, 8, 8)
        other.add_(image)
        assert courses.of(other) == Course()
        image.copy_(image.flip(2))
        assert courses.of(image).moved


def test_memory_used_again_has_no_course():
    with torch.no_grad(), Courses() as courses:
        for _ in range(100):
            image = torch.rand(2, 3, 64, 64)
            assert courses.of(image) is None
            courses.set(image, Course())
            del image


GATES = nn.Linear(4, 4)


def test_where_all_places_become_one_none_can_be_moved():
    assert followed(lambda x: x.mean((2, 3))).joined
    assert followed(lambda x: F.adaptive_avg_pool2d(x, 1).expand(2, 4, 8, 8)).joined
    assert not followed(lambda x: x.mean(3)).joined
    assert not followed(lambda x: x.mean(1, keepdim=True)).joined
    excited = followed(lambda x: x * GATES(x.mean((2, 3)))[..., None, None])
    assert excited == Course()


DECIDING = {
    "rows by number": lambda x: x[:, :, x.mean((0, 1, 3)).argsort()],
    "gathered": lambda x: x.gather(2, x.argmax(2, keepdim=True)),
    "warped": lambda x: F.grid_sample(x, x[:, :2].movedim(1, -1), align_corners=False),
    "cut": lambda x: x[:, :, int(x.mean((0, 1, 3)).argmax()) :],
    "cut, but not yet": lambda x: x[:, :, max(int(x[0, 0, 0, 0]) - 1000, 0) :],
    "cut at what is bright": lambda x: x[:, :, x[0, 0, :, 0].nonzero()[0].item() :],
    "masked": lambda x: x[x > 0],
}


@pytest.mark.parametrize("operation", DECIDING.values(), ids=DECIDING)
def test_the_image_decides_what_is_moved(operation):
    assert followed(operation).decided


@pytest.mark.parametrize("operation", MOVES.values(), ids=MOVES)
def test_the_program_decides_what_is_moved(operation):
    assert not followed(operation).decided


CUTS = {
    "rows": (lambda x: x[:, :, 2:6], ((0.25, 0.75), (0, 1))),
    "from the end": (lambda x: x[..., -2:], ((0, 1), (0.75, 1))),
    "twice": (lambda x: x[:, :, 4:][:, :, 2:, 1:].relu(), ((0.75, 1), (0.125, 1))),
    "narrowed": (lambda x: x.narrow(3, 2, 4), ((0, 1), (0.25, 0.75))),
    "padded by far": (lambda x: F.conv2d(x, torch.ones(1, 4, 3, 3), padding=5), ((-0.5, 1.5),) * 2),
    "every second": (lambda x: x[:, :, ::2], None),
    "turned": (lambda x: x.mT[:, :, 2:], None),
    "padded": (lambda x: F.pad(x, (1, 1)), None),
}


@pytest.mark.parametrize(("operation", "cut"), CUTS.values(), ids=CUTS)
def test_what_is_cut_is_known_exactly(operation, cut):
    assert followed(operation).cut == cut


def test_results_are_those_without_it():
    net, batch = transformer(), images()
    expected = net(batch)
    with Courses():
        assert torch.equal(net(batch), expected)
    assert not _get_current_dispatch_mode_stack()


class Mean(nn.Module):
    """The mean over places."""

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.mean((2, 3))


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


class Residual(nn.Module):
    """A block that adds to what it is given and enlarges it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, batch: Tensor) -> Tensor:
        wide = torch.cat([batch + self.norm(self.conv(batch)).relu_(), batch], 1)
        return F.interpolate(F.max_pool2d(wide, 2), scale_factor=2.0)


def visited(model: nn.Module, *given: Tensor, axes: int = 2) -> Visits:
    """The modules of a pass."""
    with torch.no_grad(), visits(model, axes) as order:
        model(*given)
    return order


def at(order: Visits, name: str):
    """The visit of a module."""
    [found] = [visit for visit in order if visit.name == name]
    return found


def test_nothing_moves_in_a_convolutional_network():
    head = nn.Sequential(nn.Conv2d(6, 6, 3), Mean(), nn.Sigmoid())
    body = nn.Sequential(Residual(), nn.Conv2d(6, 6, 1))
    order = visited(Net(body, head).eval(), images())
    assert len(order) == 9
    assert not any(visit.course.moved or visit.course.since for visit in order)


def test_modules_after_the_first_move_have_moved():
    order = visited(transformer(), images())
    names = [visit.name for visit in order]
    assert [visit.course.moved for visit in order] == [name != "features.0" for name in names]
    order = visited(pooled(), images())
    assert [visit.name for visit in order if visit.course.moved] == ["tail.0", "tail.1", "tail"]


@pytest.mark.parametrize(
    "enter", [lambda x: x[..., 2:], lambda x: F.pad(x, (1, 1)), lambda x: x.flip(3), lambda x: x.mT]
)
def test_what_moved_before_the_image_entered(enter):
    net = pooled()
    late = Does(lambda x: x.roll(1, 3))
    order = visited(nn.Sequential(Does(enter), net.features, late, nn.ReLU()), images())
    [entry] = order.entries
    assert (entry.name, entry.call, entry.module) == ("1.0", 0, net.features[0])
    assert entry.course.moved
    assert entry.shape == tuple(enter(images()).shape)
    inside = [visit for visit in order if visit.name.startswith("1")]
    assert [(visit.course.moved, visit.course.since) for visit in inside] == [(True, False)] * 6
    assert [(visit.course.moved, visit.course.since) for visit in order[-2:]] == [(True, True)] * 2


def test_entry_of_a_network_that_takes_the_image_as_it_is():
    net = pooled()
    [entry] = visited(nn.Sequential(nn.Identity(), net), images()).entries
    assert (entry.module, entry.shape) == (net.features[0], (2, 3, 8, 8))
    assert not entry.course.moved
    assert visited(net, images(), axes=0).entries == []
    assert visited(net, images(), axes=3).entries == []


def test_each_branch_has_an_entry_of_its_own():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), NORM

        def forward(self, batch: Tensor) -> Tensor:
            near = self.norm(self.near(batch[..., 2:6, 2:6]))
            return self.far(batch).mean((2, 3)) + near.mean((2, 3))

    order = visited(Branches(), images())
    assert [(entry.name, entry.course.moved) for entry in order.entries] == [
        ("near", True),
        ("far", False),
    ]
    courses = {visit.name: visit.course for visit in order}
    assert [courses[name].entry for name in ("near", "norm", "far")] == [0, 0, 1]
    assert [courses[name].moved for name in ("near", "norm", "far")] == [True, True, False]
    assert order.finished == ["near@0", "norm@0", "far@0"]
    assert [courses[name].behind for name in ("near", "norm", "far")] == [-1, 0, -1]


def test_modules_stand_in_the_order_in_which_they_finish():
    order = visited(pooled(), images())
    inside = [f"features.{n}" for n in range(5)]
    assert [visit.name for visit in order] == [*inside, "features", "tail.0", "tail.1", "tail"]
    assert at(order, "features.3").shape == (2, 6, 4, 4)
    assert at(order, "tail").shape == (2, 4)


def test_calls_of_a_module_are_counted():
    class Pyramid(Net):
        def forward(self, batch: Tensor) -> Tensor:
            return self.features(F.max_pool2d(self.tail(self.features(batch)), 2)[:, 1:])

    order = visited(Pyramid(nn.Conv2d(3, 4, 1), nn.ReLU()), images())
    assert [visit.name for visit in order] == ["tail", "features"]
    assert order[1].shapes == ((2, 4, 8, 8), (2, 4, 4, 4))
    assert (order[1].calls, order[1].shape) == (2, (2, 4, 4, 4))


def test_parts_are_the_tensors_side_by_side():
    both = Does(lambda x: (x, [x.mean((2, 3)), x + 1], x * 2))
    order = visited(nn.Sequential(both, Does(lambda found: {"a": found[0]})), images())
    assert (order[0].parts, order[0].shape) == (2, (2, 3, 8, 8))
    assert order[1].parts == 1


def test_module_that_returns_no_activation_is_left_out():
    order = visited(nn.Sequential(nn.ReLU(), Does(lambda x: x.shape)), images())
    assert [visit.name for visit in order] == ["0"]


def test_dropout_in_evaluation_mode_passes_on_what_a_module_returned():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.Identity(), nn.ReLU())
    passed_on = [visit.passed_on for visit in visited(net.eval(), images())]
    assert passed_on == [False, True, True, False]
    passed_on = [visit.passed_on for visit in visited(net.train(), images())]
    assert passed_on == [False, False, True, False]


def test_container_that_returns_what_its_last_module_did_passes_nothing_on():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.ReLU())
    assert [visit.passed_on for visit in visited(net, images())] == [False] * 3


def test_identity_after_a_function_marks_a_place():
    class Marked(Net):
        def forward(self, batch: Tensor) -> Tensor:
            return self.tail(self.features(batch).tanh())

    net = Marked(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Identity(), nn.ReLU()))
    assert not at(visited(net, images()), "tail.0").passed_on
    net = Net(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Identity(), nn.ReLU()))
    assert at(visited(net, images()), "tail.0").passed_on


def test_identity_of_the_image_marks_a_place():
    order = visited(nn.Sequential(nn.Identity(), nn.Identity()), images())
    assert [visit.passed_on for visit in order] == [False, True]


def test_other_threads_are_not_seen():
    net = pooled()
    with torch.no_grad(), visits(net, 2) as order:
        other = threading.Thread(target=net, args=(images(),))
        other.start()
        other.join()
    assert order == []
    assert order.entries == []


@pytest.mark.parametrize("fails", [False, True])
def test_watching_leaves_no_trace(fails):
    net = spread(Net(features(), nn.Sequential(Pooling(), nn.Linear(5 if fails else 6, 4))))
    before = snapshot(net)
    if fails:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            visited(net, images())
    else:
        visited(net, images())
    assert snapshot(net) == before
    assert not _get_current_dispatch_mode_stack()
