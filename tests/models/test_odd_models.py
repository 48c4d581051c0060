"""Models that do something unusual: the right map, or an error that says why not."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
import torch
from nets import Net, convolutional, images, pooled, spread, transformer
from snapshot import snapshot
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import (
    CAM,
    METHODS,
    AblationCAM,
    AttentionMethod,
    Deconvnet,
    EigenCAM,
    GradCAM,
    GraphError,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputError,
    LayerError,
    LayoutError,
    ModelError,
    PixelMethod,
    Saliency,
    ScoreCAM,
    Smooth,
    TargetError,
)
from camlib.state.modes import explaining

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")


class Parts(nn.Module):
    """Parts that a subclass puts together in an unusual way."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 3, padding=1)
        self.b = nn.Conv2d(5, 5, 3, padding=1)
        self.same = nn.Dropout()
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 4)
        spread(self)

    def answer(self, features: Tensor) -> Tensor:
        return self.head(features.mean((2, 3)))


class SkipThroughHook(Parts):
    """As U-Nets built around an encoder do: a hook of the model's own keeps the output."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Tensor] = []
        self.a.register_forward_hook(lambda _m, _i, output: self.kept.append(output))

    def forward(self, batch: Tensor) -> Tensor:
        self.kept.clear()
        deep = self.b(self.a(batch).tanh()).tanh()
        return self.answer(deep * self.kept.pop().tanh())


class InPlaceUsedTwice(Parts):
    def forward(self, batch: Tensor) -> Tensor:
        found = self.a(batch)
        deep = self.b(self.relu(found)).tanh()
        return self.answer(found * deep)  # `found` is what the in-place layer returned


class ChangedBehindTheLayer(Parts):
    def forward(self, batch: Tensor) -> Tensor:
        found = self.a(batch)
        self.same(found).relu_()
        return self.answer(found)


class ChangedBesideTheLayer(Parts):
    def forward(self, batch: Tensor) -> Tensor:
        found = self.a(batch)
        other = self.same(found)
        return self.answer(other.relu_().tanh())


def exact(net: nn.Module, layer: nn.Module, batch: Tensor, target: int) -> Tensor:
    """Sum of gradient times activation at `layer` by plain autograd, nothing cut or copied."""
    kept = []
    handle = layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.enable_grad():
        score = net(batch)[:, target].sum()
    handle.remove()
    [gradient] = torch.autograd.grad(score, kept[0])
    return (gradient * kept[0]).sum(1).detach()


def test_output_that_a_hook_of_the_model_keeps():
    net, batch = SkipThroughHook(), images()
    found = HiResCAM(net, "a").explain(batch, 1, relu=False).map
    torch.testing.assert_close(found, exact(net, net.a, batch, 1))


def test_in_place_layer_whose_input_is_used_again():
    net, batch = InPlaceUsedTwice(), images()
    found = HiResCAM(net, "relu").explain(batch, 1, relu=False).map
    torch.testing.assert_close(found, exact(net, net.relu, batch, 1))


def test_layer_that_returns_its_input_which_is_changed_later():
    with pytest.raises(LayerError, match="layer 'same' returns its own input, which the model"):
        GradCAM(ChangedBehindTheLayer(), "same")(images(), 1)
    net, batch = ChangedBesideTheLayer(), images()
    seen = GradCAM(net, "same").explain(batch, 1)
    torch.testing.assert_close(seen.output, net(batch).detach())


def test_no_grad_block_that_ends_between_two_uses():
    class Partly(Parts):
        def forward(self, batch: Tensor) -> Tensor:
            with torch.no_grad():
                found = self.a(batch)
                aside = self.answer(found)
            return self.answer(self.b(found).tanh()) + aside

    class Never(Partly):
        def forward(self, batch: Tensor) -> Tensor:
            found = self.a(batch)
            return self.answer(self.b(found).tanh()) + self.answer(found)

    net, whole, batch = Partly(), Never(), images()
    expected = exact(whole, whole.a, batch, 1)
    found = HiResCAM(net, "a").explain(batch, 1, relu=False).map
    torch.testing.assert_close(found, expected)
    several = HiResCAM(net, ["a", "b"], fuse=None).explain(batch, 1, relu=False)
    torch.testing.assert_close(several.maps[0], expected)


def test_inference_mode_inside_the_model():
    class Inferring(Net):
        def forward(self, batch: Tensor) -> Tensor:
            with torch.inference_mode():
                return super().forward(batch)

    base = pooled()
    net = Inferring(base.features, base.tail).eval()
    with pytest.raises(GraphError, match="layer 'features' runs under inference_mode"):
        GradCAM(net, "features")(images())
    with pytest.raises(GraphError, match="no gradient flows"):
        Saliency(net)(images())
    for kind in (CAM, ScoreCAM):
        torch.testing.assert_close(kind(net, "features")(images()), kind(base)(images()))


@pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning")
@pytest.mark.filterwarnings("ignore:a map of Occlusion:camlib.CamlibWarning")
def test_model_that_normalises_its_input_in_place():
    class Normalising(Net):
        def forward(self, batch: Tensor) -> Tensor:
            return super().forward(batch.sub_(0.5).div_(0.2))

    class Twin(Net):
        def forward(self, batch: Tensor) -> Tensor:
            return super().forward((batch - 0.5) / 0.2)

    batch = images()
    for kind in METHODS.values():
        if kind is not CAM:
            base = transformer() if issubclass(kind, AttentionMethod) else convolutional()
            found, expected = (
                kind(each(base.features, base.tail).eval())(batch, 1)
                for each in (Normalising, Twin)
            )
            torch.testing.assert_close(found, expected)


def test_score_cam_of_a_single_output_weighs_by_its_sigmoid():
    base = convolutional()

    class First(nn.Module):
        def forward(self, output: Tensor) -> Tensor:
            return output[:, :1]

    net, batch = Net(base.features, nn.Sequential(base.tail, First())).eval(), images()
    found = ScoreCAM(net, "features").explain(batch, 1).map
    expected = ScoreCAM(base, "features").explain(batch, lambda out: out[:, 0].sigmoid()).map
    torch.testing.assert_close(found, expected)


def test_halves_of_guided_grad_cam_share_any_target():
    net, batch = convolutional(), images()

    def likely(output: Tensor) -> Tensor:
        return output.softmax(1)[:, 2]

    expected = GuidedBackprop(net)(batch, likely) * GradCAM(net, "features")(batch, likely)[:, None]
    torch.testing.assert_close(GuidedGradCAM(net, "features")(batch, likely), expected)
    with pytest.raises(InputError, match="fuse=None leaves several maps to multiply with"):
        GuidedGradCAM(net, ["features.1", "features"], fuse=None)
    fused = GuidedGradCAM(net, ["features.1", "features"])(batch, 1)
    assert fused.shape == batch.shape


def test_target_is_not_subject_to_the_rule():
    net, batch = convolutional(), images()
    found = GuidedBackprop(net)(batch, lambda out: -F.relu(out[:, 0] + 100))
    expected = GuidedBackprop(net)(batch, lambda out: -out[:, 0])
    torch.testing.assert_close(found, expected)
    assert found.abs().sum() > 0


class ChannelsLastBody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, stride=2, padding=1)
        self.mix = nn.Linear(20, 20)

    def forward(self, batch: Tensor) -> Tensor:
        return self.mix(self.conv(batch).relu().movedim(1, -1)).movedim(-1, 1).mean((2, 3))


def test_deconvnet_from_a_layer_with_channels_last():
    net, batch = spread(ChannelsLastBody()), images()
    found = Deconvnet(net, "mix").explain(batch, channel=15)
    kept = []
    net.mix.register_forward_hook(lambda _m, _i, output: kept.append(output))
    net(batch)
    torch.testing.assert_close(found.score, kept[0][..., 15].sum((1, 2)).detach())
    with pytest.raises(TargetError, match="there is no unit 20 in layer 'mix' of shape"):
        Deconvnet(net, "mix")(batch, channel=20)


def test_deconvnet_behind_a_detached_layer():
    class Stopped(Parts):
        def forward(self, batch: Tensor) -> Tensor:
            return self.answer(self.b(self.a(batch).relu().detach()))

    with pytest.raises(GraphError, match="no gradient flows from the score to 'the input'"):
        Deconvnet(Stopped(), "b")(images(), unit=1)


def test_layer_that_returns_a_mapping_of_numbers():
    class Numbered(nn.Module):
        def forward(self, features: Tensor) -> dict[int, Tensor]:
            return {0: features}

    class First(nn.Module):
        def forward(self, found: dict[int, Tensor]) -> Tensor:
            return found[0]

    base = pooled()
    net = Net(nn.Sequential(base.features, Numbered()), nn.Sequential(First(), base.tail)).eval()
    torch.testing.assert_close(GradCAM(net, "features")(images()), GradCAM(base)(images()))


def test_output_that_is_a_dataclass_holds_no_graph():
    @dataclass(frozen=True)
    class Answer:
        logits: Tensor
        note: str = "kept"

    class Answering(Net):
        def forward(self, batch: Tensor) -> Answer:
            return Answer(super().forward(batch))

    base = pooled()
    net = Answering(base.features, base.tail).eval()
    for kind in (GradCAM, Saliency):
        seen = kind(net).explain(images(), lambda out: out.logits[:, 1])
        assert not seen.output.logits.requires_grad
        assert seen.output.note == "kept"
    assert net(images()).logits.requires_grad


def test_model_that_enlarges_the_batch():
    class Flipping(Net):
        def forward(self, batch: Tensor) -> Tensor:
            both = super().forward(torch.cat([batch, batch.flip(3), batch])[:5])
            return both[: len(batch)]

    base = pooled()
    net = Flipping(base.features, base.tail).eval()
    with pytest.raises(LayoutError, match=r"shape \(5, 6, 4, 4\) has no grid .* and 2 samples"):
        GradCAM(net, "features")(images())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_scripted_part():
    base = pooled()
    scripted = torch.jit.script(base.tail)
    net = Net(base.features, scripted).eval()
    torch.testing.assert_close(GradCAM(net)(images()), GradCAM(base)(images()))
    for name in ("tail", "tail.0"):
        with pytest.raises(LayerError, match=f"layer '{name}' is scripted"):
            GradCAM(net, name)
    with pytest.raises(LayerError, match=r"layer 'tail.9' not found in Net; did you mean 'tail"):
        GradCAM(net, "tail.9")


class Rounding(nn.Module):
    """Hands on values of 8 bits, as networks made for phones do."""

    def forward(self, found: Tensor) -> Tensor:
        return torch.quantize_per_tensor(found, 0.05, 128, torch.quint8)


class Unpacking(nn.Module):
    """Makes floating-point numbers of them again."""

    def forward(self, found: Tensor) -> Tensor:
        return found.dequantize()


EIGHT_BITS = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")


@EIGHT_BITS
@pytest.mark.parametrize("layer", ["features", "features.2", None])
def test_values_of_eight_bits_before_the_layer(layer):
    base, batch = pooled(), images()
    body = nn.Sequential(base.features, Rounding(), Unpacking())
    net = Net(body, base.tail).eval()
    activation = body(batch).detach().requires_grad_()
    [gradient] = torch.autograd.grad(net.tail(activation)[:, 1].sum(), activation)
    expected = (gradient.mean((2, 3), keepdim=True) * activation).sum(1).detach()
    seen = GradCAM(net, layer).explain(batch, 1, relu=False)
    assert seen.layers == ("features" if layer is None else layer,)
    torch.testing.assert_close(seen.map, expected)
    lost = (gradient * activation).sum((2, 3), keepdim=True)  # without a channel: all is linear
    ablated = AblationCAM(net, layer).explain(batch, 1, relu=False).map
    torch.testing.assert_close(ablated, (lost * activation).sum(1).detach())
    for kind in (ScoreCAM, EigenCAM):
        found = kind(net, layer)(batch, 1)
        torch.testing.assert_close(found, kind(net, "features")(batch, 1))
        assert found.any()


@EIGHT_BITS
@pytest.mark.parametrize("kind", [GradCAM, ScoreCAM, AblationCAM, EigenCAM])
def test_layer_of_eight_bits_is_refused(kind):
    base = pooled()
    net = Net(nn.Sequential(base.features, Rounding(), Unpacking()), base.tail).eval()
    with pytest.raises(LayerError, match=r"'features\.1' returned Tensor with no floating-"):
        kind(net, "features.1")(images(), 1)


def test_model_that_was_traced_symbolically():
    net, batch = convolutional(), images()
    traced = torch.fx.symbolic_trace(net)
    for kind in (GradCAM, ScoreCAM, AblationCAM):
        for layer in ("features.4", None):
            found = kind(traced, layer).explain(batch, 1, relu=False)
            expected = kind(net, found.layers).explain(batch, 1, relu=False)
            torch.testing.assert_close(found.map, expected.map)
            assert found.map.any()


def test_target_without_a_gradient_is_said_so_at_once():
    runs = []
    net = convolutional()
    net.register_forward_pre_hook(lambda *_: runs.append(1))
    with pytest.raises(GraphError, match="no gradient flows from the score"):
        GradCAM(net)(images(), lambda out: out.detach()[:, 0])
    assert len(runs) < 30


class Decoding(Net):
    """Decodes its answer in place, behind a sigmoid that needs it for its backward pass."""

    mended = False

    def forward(self, batch: Tensor) -> Tensor:
        answer = super().forward(batch).sigmoid()
        answer = answer.clone() if self.mended else answer
        answer[:, 0] *= 2
        return answer


@pytest.mark.parametrize("target", [1, [[1, 2], [1, 2]], None])
@pytest.mark.parametrize("kind", [GradCAM, HiResCAM, Saliency, GuidedBackprop, GuidedGradCAM])
def test_model_that_overwrites_what_its_backward_pass_needs(kind, target):
    base, batch = convolutional(), images()
    net = Decoding(base.features, base.tail).eval()
    with pytest.raises(GraphError, match=r"changes in place what .* add \.clone\(\) .* ScoreCAM"):
        kind(net)(batch, target)
    found = ScoreCAM(net, "features")(batch, target)
    net.mended = True  # as the error says
    torch.testing.assert_close(found, ScoreCAM(net, "features")(batch, target))
    assert kind(net)(batch, target).any()


def test_target_without_a_score():
    with pytest.raises(TargetError, match=r"or \(2, K\), a score for each sample, got \(2, 0\)"):
        GradCAM(pooled())(images(), lambda out: out[:, :0])


def test_model_that_squeezes_its_output():
    class Squeezing(Net):
        def forward(self, batch: Tensor) -> Tensor:
            return super().forward(batch)[:, :1].squeeze()

    base = convolutional()
    net = Squeezing(base.features, base.tail).eval()
    for kind in (GradCAM, ScoreCAM):
        both = kind(net, "features", **({"batch_size": 5} if kind is ScoreCAM else {}))(images())
        for n in range(2):
            torch.testing.assert_close(kind(net, "features")(images()[n : n + 1])[0], both[n])


def test_biased_classifier_in_half_precision():
    """A large bias must not hide that the pooling saw something else than the layer gives."""
    net = pooled()
    net.features[3].bias.data -= 0.5
    net.tail[1].bias.data.fill_(30)
    found = CAM(net.bfloat16(), "features.3").explain(images().bfloat16(), [1, 2]).map
    expected = CAM(net.float(), "features").explain(images(), [1, 2]).map
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize(
    "kind", [kind for kind in METHODS.values() if issubclass(kind, PixelMethod | Smooth)]
)
def test_attribution_in_inference_mode_is_an_ordinary_tensor(kind):
    net = pooled()
    with torch.inference_mode():
        found = kind(net)(images())
    assert not found.is_inference()
    found += 1


def test_attribution_that_is_not_finite():
    batch = images()
    batch[0, 0, 0, 0] = torch.inf
    with pytest.raises(InputError, match="the attribution is not finite"):
        Saliency(convolutional())(batch, 1)


def test_interrupt_while_modes_are_switched():
    net = pooled().train()
    before = snapshot(net)

    class Interrupting(nn.Module):
        @property
        def training(self) -> bool:
            raise KeyboardInterrupt

    interrupting = Interrupting.__new__(Interrupting)
    vars(interrupting).update(vars(nn.Module()))
    net._modules["interrupting"] = interrupting
    with pytest.raises(KeyboardInterrupt), explaining(net, torch.device("cpu")):
        pass
    del net._modules["interrupting"]
    assert snapshot(net) == before
    with explaining(net, torch.device("cpu")):
        assert not net.training
    assert snapshot(net) == before


def test_random_numbers_after_overlapping_calls():
    device, state = torch.device("cpu"), torch.get_rng_state()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with explaining(nn.ReLU(), device):
            torch.rand(3)
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(5)
    with explaining(nn.ReLU(), device):
        torch.rand(3)
        leave.set()
        thread.join()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_layers_of_a_scripted_model():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()))
    with pytest.raises(
        ModelError, match=r"the layers of a scripted model \(Sequential\) run no hooks"
    ):
        GradCAM(scripted)
    assert Saliency(scripted)(images(), target=1).shape == (2, 3, 8, 8)
