"""Metrics over whole datasets, in one process and in two."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from meters import NAMES, data
from nets import convolutional

from camlib import GradCAM, InputError, metrics

pytest.importorskip("torchmetrics", reason="the accumulators need the extra `metrics`")
from camlib.metrics.accumulators import (
    Faithfulness,
    Localisation,
    MaxBoxAccuracy,
)


def updated(meter, *parts, sizes=(2, 4, 3)):
    for part in zip(*[each.split(list(sizes)) for each in parts], strict=True):
        meter.update(*part)
    return meter


def test_faithfulness_is_the_mean_of_all():
    net = convolutional()
    batch, maps, _, _ = data()
    meter = updated(Faithfulness(net, NAMES, batch_size=4), batch, maps)
    expected = metrics.faithfulness(net, batch, maps, metrics=NAMES)
    for name, value in meter.compute().items():
        torch.testing.assert_close(value, expected[name].double().mean(), rtol=1e-6, atol=1e-7)
    assert not meter.state_dict()
    assert not list(meter.parameters())


def test_nothing_is_no_number():
    with pytest.warns(UserWarning, match="before the ``update``"):
        values = Faithfulness(convolutional()).compute().values()
    assert all(bool(value.isnan()) for value in values)


def test_a_method_makes_the_heatmaps():
    net = convolutional()
    batch, cam = data()[0], GradCAM(net, "features", relu=False)
    meter = Faithfulness(net, [*NAMES, "coherency"], method=cam)
    for part, labels in zip(batch.split(3), [0, 1, None], strict=True):
        meter.update(part, target=labels)
    expected = [
        metrics.faithfulness(
            net, part, cam(part, labels), labels, metrics=[*NAMES, "coherency"], method=cam
        )
        for part, labels in zip(batch.split(3), [0, 1, None], strict=True)
    ]
    for name, value in meter.compute().items():
        own = torch.cat([each[name] for each in expected]).double().mean()
        torch.testing.assert_close(value, own, rtol=1e-6, atol=1e-7)
    with pytest.raises(InputError, match="heatmaps is missing"):
        Faithfulness(net).update(batch)
    with pytest.raises(InputError, match="metric 'drop' does not exist"):
        Faithfulness(net, ["drop"])


def test_localisation_over_samples_and_over_classes():
    _, maps, masks, classes = data()
    masks = masks.clone()
    masks[4] = False
    plain = updated(Localisation(), maps, masks).compute()
    by_class = updated(Localisation(classes=5), maps, masks, classes).compute()
    for name, value in plain.items():
        found = getattr(metrics, name)(maps, masks).double()
        torch.testing.assert_close(value, found.nanmean())
        torch.testing.assert_close(by_class[name], metrics.mean_by_class(found, classes))
    for call, message in [
        (lambda: Localisation(["iuo"]), "metric 'iuo' does not exist"),
        (lambda: Localisation(classes=3).update(maps, masks), "update needs the class of each map"),
        (lambda: Localisation(classes=2).update(maps, masks, classes), "out of range"),
        (lambda: Localisation({"iou": {"shares": (0.1, 0.2)}}).update(maps, masks), "several"),
        (lambda: MaxBoxAccuracy(version=3), "version=3 is not known"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("version", [1, 2])
def test_max_box_accuracy_has_one_threshold_for_all(version):
    _, maps, masks, _ = data()
    masks = masks.clone()
    masks[4] = False
    meter = updated(MaxBoxAccuracy(version=version, thresholds=20), maps, masks)
    expected = metrics.max_box_accuracy(maps, masks, version=version, thresholds=20)
    torch.testing.assert_close(meter.compute(), expected, check_dtype=False)
    assert 0.5 < float(expected) < 1


def test_copies_and_pickles():
    _, maps, masks, _ = data()
    meter = updated(Localisation(["iou"]), maps, masks)
    for twin in (copy.deepcopy(meter), pickle.loads(pickle.dumps(meter))):
        assert twin.compute() == meter.compute()
    faithful = updated(Faithfulness(convolutional(), NAMES), *data()[:2])
    assert copy.deepcopy(faithful).compute() == faithful.compute()


TWO = """
import sys
sys.path[:0] = {path!r}
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from nets import convolutional
from meters import NAMES, data
from camlib.metrics.accumulators import Faithfulness, Localisation, MaxBoxAccuracy

def meters(**options):
    net = convolutional()
    return (
        Faithfulness(net, NAMES, **options),
        Localisation(classes=3, **options),
        MaxBoxAccuracy(**options),
    )

def add(made, part):
    batch, maps, masks, classes = (each[part] for each in data())
    made[0].update(batch, maps)
    made[1].update(maps, masks, classes)
    made[2].update(maps, masks)

def values(made):
    return [*made[0].compute().values(), *made[1].compute().values(), made[2].compute()]

def work(rank, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=file, rank=rank, world_size=2)
    made = meters()
    add(made, slice(0, 6) if rank == 0 else slice(6, 9))
    together = values(made)
    one = meters(sync_on_compute=False)
    add(one, slice(0, 6))
    add(one, slice(6, 9))
    for found, expected in zip(together, values(one), strict=True):
        assert torch.equal(found, expected), (found, expected)
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(work, (sys.argv[1],), nprocs=2)
    print("equal")
"""


@pytest.mark.slow
def test_two_processes_give_the_metric_of_one(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(path=[p for p in sys.path if p]))
    done = subprocess.run(
        [sys.executable, str(script), f"file://{tmp_path / 'store'}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["equal"]
