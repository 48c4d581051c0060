"""Interrupts at every step of a call, and what they may leave behind: nothing."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from snapshot import snapshot
from torch import nn

from camlib.passes import interception
from camlib.state import ambient, kept, modes, random, undoing

Call = Callable[[], Any]


def whole_state(model: nn.Module) -> dict[str, Any]:
    """All that a call may touch, of the model and of the process, to be compared with ``==``."""
    from torch._dynamo import eval_frame
    from torch.utils.checkpoint import CheckpointFunction

    return snapshot(model) | {
        "stance": eval_frame._stance.stance,
        "checkpoints": "apply" in vars(CheckpointFunction),
        "cudnn": torch.backends.cudnn.enabled,
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "autocast": (ambient._autocast(), torch.is_autocast_cache_enabled(), ambient._nesting()),
        "switched": dict(modes._switched),
        "held": dict(kept._held),
        "wrapped": dict(interception._wrapped),
        "blocks": [*undoing._blocks()],
        "open": dict(undoing._open),
        "shared": [shared.holders for shared in (modes._stance, modes._checkpoints, modes._cudnn)],
        "generators": [generator.holders for generator in random._generators.values()],
        "players": getattr(interception._local, "players", ()),
        "direct": getattr(modes._local, "direct", 0),
    }


def steps_of(call: Call) -> int:
    """At how many steps `call` may be interrupted: where functions begin, and C ones end."""
    count = 0

    def count_them(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_return")

    sys.setprofile(count_them)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def interrupt(call: Call, *steps: int) -> bool:
    """Whether `call` ended with an interrupt, at one of `steps`; there is one at each of them."""
    count, waiting = 0, sorted(steps)

    def at_step(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        if event in ("call", "c_return"):
            count += 1
            if waiting and count >= waiting[0]:
                waiting.pop(0)
                raise KeyboardInterrupt

    sys.setprofile(at_step)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def interrupt_after(call: Call, seconds: float) -> bool:
    """Whether `call` ended with an interrupt, sent by a clock after so many `seconds`."""

    def raise_it(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    finally:
        signal.signal(signal.SIGALRM, before)
    return False
