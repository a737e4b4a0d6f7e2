"""What suppressing boxes takes at most, against what ultralytics really takes."""

import pytest
import torch

from orchestrator.device.emulated import EmulatedDevice
from orchestrator.memory.suppression import predictions_in, suppression_bytes
from orchestrator.types import Card

pytest.importorskip("ultralytics", reason="the extra [yolo] is not installed")
GIB = 1 << 30


@pytest.mark.parametrize(("classes", "extra"), [(1, 0), (20, 0), (80, 32)])
def test_what_is_really_taken_is_never_more_and_not_much_less(classes: int, extra: int) -> None:
    from ultralytics.utils.nms import non_max_suppression

    card = Card(index=0, name="card", memory_bytes=4 * GIB, is_emulated=True)
    device = EmulatedDevice(card, 4 * GIB)
    torch.manual_seed(0)
    given = torch.rand(2, 4 + classes + extra, 700) * 0.5 + 0.4  # every pair is a candidate
    with device.session():
        given = given.clone()
        before = device.live_bytes()
        device.reset_peak()
        non_max_suppression(given, 0.001, 0.7, nc=classes, multi_label=True, max_det=300)
        taken = device.peak_bytes() - before
    boxes = min(30_000, 700 * classes)
    overlaps = boxes * -(-boxes // 64) * 8  # torchvision's kernel for the CPU keeps none
    most = suppression_bytes(given, classes)
    assert taken <= most
    assert taken > 0.4 * (most - overlaps)


def test_the_overlaps_of_thirty_thousand_boxes_are_bits() -> None:
    given = torch.empty(1, 84, 8400)
    assert 30_000 * 469 * 8 < suppression_bytes(given, 80) < 1.2 * 30_000 * 469 * 8


def test_predictions_are_found_however_the_head_gives_them() -> None:
    boxes = torch.zeros(2, 6, 84)
    assert predictions_in(boxes) is boxes
    assert predictions_in(((boxes, torch.zeros(2, 32)), {"feats": []})) is boxes
    assert predictions_in({"boxes": boxes}) is None
    assert predictions_in(torch.zeros(3)) is None
