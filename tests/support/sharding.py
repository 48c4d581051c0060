"""Explains sharded networks in one of several processes, and prints what is not as it should be.

Run as ``python sharding.py RANK PROCESSES FILE TRIALS``, with a file through which the processes
meet; every method in more than one trial, else those that look at weights.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed
from nets import Net, flat, images, pooled, rectifying
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from camlib import (
    CAM,
    METHODS,
    AblationCAM,
    FullGrad,
    GradCAM,
    GuidedGradCAM,
    InputError,
    SmoothFullGrad,
    metrics,
)
from camlib.methods.attention import AttentionMethod


def sharded(net: Net, mesh: DeviceMesh, *, each: bool) -> Net:
    """`net` in training, sharded as a whole, and `each` of its layers before that."""
    for module in [*net.features, *net.tail] if each else []:
        if any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net.train()


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def trained(net: nn.Module, batch: Tensor) -> list[Tensor]:
    """The gradients of a step of training."""
    net.zero_grad()
    net(batch).sum().backward()
    return [whole(parameter.grad) for parameter in net.parameters()]


def differences(
    build: Callable[[], Net], mesh: DeviceMesh, *, each: bool, kinds: Sequence[Callable[..., Any]]
) -> Iterator[str]:
    batch = images(2, seed=mesh.get_rank())  # another on each process
    expected_step = trained(build().train(), images(2))
    for kind in kinds:
        expected = kind(build())(batch, 1)
        net = sharded(build(), mesh, each=each)
        before = [*map(id, net.parameters())]
        if not torch.allclose(kind(net)(batch, 1), expected, atol=1e-5):
            yield f"{kind.__name__} gives another map"
        if [*map(id, net.parameters())] != before:
            yield f"{kind.__name__} leaves weights whole"

        def stop(*_: object) -> None:
            raise ArithmeticError

        hook = net.tail[-1].register_forward_hook(stop)
        try:
            kind(net)(batch, 1)
            yield f"{kind.__name__} hides an error"
        except ArithmeticError:
            hook.remove()
        if [*map(id, net.parameters())] != before:
            yield f"{kind.__name__} leaves weights whole after an error"
        steps = zip(trained(net, images(2)), expected_step, strict=True)
        if not all(torch.allclose(one, other, atol=1e-6) for one, other in steps):
            yield f"a step of training after {kind.__name__} differs"


def main(rank: int, processes: int, file: str, trials: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=processes
    )
    mesh = init_device_mesh("cpu", (processes,))
    every = [CAM, AblationCAM, FullGrad, SmoothFullGrad, GuidedGradCAM]
    if trials > 1:
        every = [kind for kind in METHODS.values() if not issubclass(kind, AttentionMethod)]
    for build, each, kinds in (
        (pooled, True, every),
        (pooled, False, [CAM, AblationCAM, FullGrad]),
        (rectifying, True, [AblationCAM, FullGrad]),
        (flat, False, [AblationCAM, GradCAM]),
    ):
        for difference in differences(build, mesh, each=each, kinds=kinds):
            print(f"{build.__name__}, {each=}: {difference}")
    net, batch = sharded(pooled(), mesh, each=True), images()
    cam = GradCAM(net)
    try:
        metrics.parameter_randomisation(net, batch, cam(batch, 1), 1, method=cam)
        print("weights of others become random")
    except InputError:
        pass
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
