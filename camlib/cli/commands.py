"""The commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from camlib import METHODS, Method, __version__
from camlib.cli.answers import built, maps_of, scores_of
from camlib.cli.arguments import (
    class_index,
    destinations,
    device_named,
    method_named,
    named,
    network_named,
    scenenet,
    untrained_named,
)
from camlib.cli.files import save_array, writing
from camlib.cli.terminal import bar, first_line, say, table, warnings_in_a_line
from camlib.draws import Draws
from camlib.errors import CamlibError, InputError, ModelError
from camlib.visual import figure, measured, save_picture
from camlib.visual.reading import read

if TYPE_CHECKING:
    from torch import Tensor

    from camlib.integrations.torchvision import Network

# Its scene has two large objects far apart, and the network is sure of both.
_DEMO_SEED = 236

_LARGE = 4.5
"""The width in inches of the two pictures that show a single map."""

_DEMO_METHODS = (
    *("cam", "grad_cam", "grad_cam_plus_plus", "hires_cam", "xgrad_cam", "element_wise_grad_cam"),
    *("layer_cam", "score_cam", "saliency", "guided_backprop", "deconvnet", "guided_grad_cam"),
)


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CamlibError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="camlib", message="%(prog)s %(version)s")
def main() -> None:
    """Class activation maps: where did the network look for this answer?"""


@main.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="camlib-demo.png",
    show_default=True,
    metavar="FILE",
    help="The picture.",
)
@click.option("--seed", default=_DEMO_SEED, show_default=True, help="Another scene.")
@click.option("--all", "every", is_flag=True, help="Every method; takes a minute.")
def demo(*, output: Path, seed: int, every: bool) -> None:
    """Draw what the best-known methods find for two classes in one scene.

    The scene and the network are built in; nothing is downloaded.
    """
    from camlib.cli.page import page

    network = scenenet()
    picture, classes = _scene_of_two(seed)
    chances = network.probabilities(scores_of(network, picture))
    panels, left_out = {}, []
    for kind in METHODS.values() if every else map(METHODS.__getitem__, _DEMO_METHODS):
        method = built(kind, network, ["features"], quick=True)
        try:
            with warnings_in_a_line(f"scene {seed}"):
                panels[kind.__name__] = maps_of(network, method, picture, classes).over(picture)
        except ModelError:
            left_out.append(kind.__name__)
    names = [network.classes[index] for index in classes]
    drawn = page(
        f"Where does the network see the {names[0]}, and where the {names[1]}?",
        f"The built-in network of camlib on scene {seed}; what it believes stands on the left. "
        f"{len(panels)} methods show why: red marks evidence for the class, blue none.\nGrey "
        "pictures mark single pixels in colour; those of Deconvnet cannot tell where, because it "
        "ignores which units were active.",
        picture,
        panels,
        [f"{name}: {chances[index]:.1%}" for name, index in zip(names, classes, strict=True)],
    )
    with writing(output):
        say(f"wrote {save_picture(drawn, output)}")
    if left_out:
        say(f"left out, as the built-in network is no transformer: {', '.join(left_out)}")


@main.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="resnet50",
    show_default=True,
    metavar="NAME",
    help="A classification network of torchvision; or scenenet, the built-in one for scenes.",
)
@click.option(
    "--weights",
    default="DEFAULT",
    show_default=True,
    metavar="FILE|NAME",
    help="A file with weights, or the name of published ones, downloaded on first use.",
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Names of the classes: a file with one a line, JSON, or a folder with a folder for each.",
)
@click.option(
    "--multi-label", is_flag=True, help="Several classes may be present: sigmoid, not softmax."
)
@click.option(
    "--trust",
    is_flag=True,
    help="Read a whole pickled model, which can run any code: only if you know who made it.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help="See `camlib layers`; several are fused.  [default: the last good one]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=["grad_cam"],
    show_default=True,
    metavar="NAME",
    help="See `camlib methods`; may be repeated.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="CLASS",
    help="A class by number or name; may be repeated.  [default: the predicted class]",
)
@click.option("--device", default="auto", show_default=True, help="Such as cpu, cuda:1 or mps.")
@click.option("--plain", is_flag=True, help="The map over the photo alone, for one map.")
@click.option("--raw", is_flag=True, help="Also write the maps as .npy, in units of the score.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A picture for one image, or an existing folder.  [default: IMAGE-camlib.png here]",
)
@click.pass_context
def explain(
    context: click.Context,
    *,
    images: tuple[Path, ...],
    model: str,
    weights: str,
    classes: Path | None,
    multi_label: bool,
    trust: bool,
    layers: tuple[str, ...],
    methods: tuple[str, ...],
    targets: tuple[str, ...],
    device: str,
    plain: bool,
    raw: bool,
    output: Path | None,
) -> None:
    """Show where a network looked in each of IMAGES.

    The figure has the photo with its class and probability, and beside it the map of each method,
    where the network looked; a row for each target.
    """
    kinds = {name: method_named(name) for name in methods}
    places = destinations(images, output)
    where = device_named(device)
    network = network_named(model, weights, trust=trust)
    network = named(network, classes, several=multi_label)
    asked = list(dict.fromkeys(class_index(target, network.classes) for target in targets))
    network.model.to(where)
    chosen = {name: built(kind, network, layers) for name, kind in kinds.items()}
    failed = False
    loop = zip(images, places, strict=True)
    for image, place in bar("images")(list(loop)) if len(images) > 1 else loop:
        try:
            with warnings_in_a_line(image):
                _explain(image, place, network, chosen, asked, plain=plain, raw=raw)
        except CamlibError as error:
            failed = True
            about = "" if str(image) in str(error) else f"{image}: "
            say(f"Error: {about}{error}", error=True)
    context.exit(int(failed))


@main.command()
@click.argument("model")
@click.option("--size", type=click.IntRange(min=1), help="Of the input; the network's by default.")
def layers(*, model: str, size: int | None) -> None:
    """List the layers of MODEL that can be explained.

    MODEL is a classification network of torchvision or, where it is installed, of timm; or
    scenenet, the built-in one. The weights are random and nothing is downloaded.
    """
    from camlib.layers import candidates

    network, usual, channels = untrained_named(model)
    size = size or usual
    noise = Draws(0).normal(1, channels, size, size)
    try:
        found = candidates(network, noise)
    except CamlibError:
        raise
    # Networks refuse a size in their own ways, from assertions to errors deep inside.
    except Exception as error:
        raise InputError(
            f"{model!r} cannot take pictures of {size} x {size} ({first_line(error)}); its own "
            f"size is {usual}: --size {usual}"
        ) from None
    rows = []
    for layer in found:
        shape, grid = (" x ".join(map(str, axes)) for axes in (layer.shape[1:], layer.grid))
        mark = "default" if layer.default else ""
        stride, share = f"{layer.stride[-1]:.3g}", f"{layer.share:.0%}"
        rows.append([layer.name, layer.kind, shape, grid, stride, share, mark])
    table(["layer", "kind", "output", "grid", "stride", "gradient on it", ""], rows)


@main.command()
def methods() -> None:
    """List the methods, their papers and what they cost."""
    rows = [[name, kind.__name__, kind.paper(), kind.cost] for name, kind in METHODS.items()]
    table(["name", "class", "paper", "passes of the network"], rows)


def _explain(
    image: Path,
    place: Path,
    network: Network,
    methods: Mapping[str, Method],
    classes: Sequence[int],
    *,
    plain: bool,
    raw: bool,
) -> None:
    """Write to `place` what `methods` find for `classes`, or for the predicted class."""
    photo = read(image)
    picture, placement = network.crop(photo), measured(network.crop, photo)
    scores = scores_of(network, picture)
    chances = network.probabilities(scores)
    best = int(scores.argmax())
    classes = classes or [best]
    found = {name: maps_of(network, each, picture, classes) for name, each in methods.items()}
    one = len(found) * len(classes) == 1
    drawing: Any
    if plain and one:
        [maps] = found.values()
        drawing = maps.on(photo, placement)
    else:
        columns = {
            f"{type(methods[name]).__name__}\n{', '.join(maps.layers)}": maps.heatmaps
            for name, maps in found.items()
        }
        names = [f"{network.classes[index]}\n{chances[index]:.1%}" for index in classes]
        drawing = figure(
            [photo] * len(classes),
            columns,
            names=names,
            transform=placement,
            colorbar=True,
            panel=_LARGE if one else None,
        )
    with writing(place):
        written = [save_picture(drawing, place)]
        for name, maps in found.items() if raw else ():
            file = place.with_name(f"{place.stem}{f'-{name}' * (len(found) > 1)}.npy")
            written.append(save_array(maps.raw.squeeze(0), file))
    used = dict.fromkeys(layer for maps in found.values() for layer in maps.layers)
    say(f"{image}: {network.classes[best]}, {chances[best]:.1%}")
    for index in classes:
        say(
            f"  class {index}, {network.classes[index]}: {chances[index]:.1%}, "
            f"score {float(scores[index]):.4g}, layer {', '.join(used) or 'none'}"
        )
    say(f"  wrote {', '.join(map(str, written))}")


def _scene_of_two(seed: int) -> tuple[Tensor, list[int]]:
    """The picture of a scene, and two classes that are in it."""
    from camlib.zoo import CLASSES, scene

    drawn = scene(seed)
    labels = sorted(set(drawn.labels.tolist()))
    if len(labels) == 1:
        labels.append((labels[0] + 1) % len(CLASSES))
        drawn = scene(seed, classes=labels)
    return drawn.image, labels[:2]
