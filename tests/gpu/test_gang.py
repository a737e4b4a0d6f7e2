"""Ranks on real cards add up gradients over NCCL as one process has them; needs two cards."""

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.bench_gang import counted
from jobs.rank_processes import found_by_ranks
from orchestrator.trainer.options_ddp import ddp_options
from orchestrator.trainer.ranks import joined
from orchestrator.trainer.reduction import Reduction
from orchestrator.types import BatchPlan, Scalar, TrainSettings
from tests.contracts.trainer import attempt_of
from tests.trainer.norm_sync_work import ON, Stepped, stepped
from tests.trainer.test_gang_timm import difference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        torch.cuda.device_count() < 2, reason="needs two CUDA cards, for NCCL between them"
    ),
]
RESNET = "timm/test_resnet.r160_in1k"
OPTIONS: list[dict[str, Scalar]] = [
    {"ddp_bucket_mb": 1},
    {"ddp_bucket_mb": 1, "ddp_overlap": False},
    {"ddp_bucket_mb": 1, "ddp_compression": "fp16"},
    {"ddp_bucket_mb": 1, "ddp_compression": "bf16"},
]


def gradients(rank: int, options: dict[str, Scalar], folder: str) -> tuple[Any, Any, int, int]:
    """Sums over the ranks, what one process has, bytes as computed and as counted."""
    torch.cuda.set_device(rank)
    batch = BatchPlan(effective_batch=7, world_size=2, micro_batch=4)
    settings = TrainSettings(model="m", data="", imgsz=32, epochs=1, options=options)
    task = attempt_of(settings, Path(folder) / str(rank), batch=batch)
    task = type(task)(
        attempt=task.attempt, spec=task.spec, batch=batch, folder=task.folder, rank=rank
    )
    images = torch.randn(7, 512, generator=torch.Generator().manual_seed(0)).cuda()
    with joined(task, ddp_options(options)[0], is_cuda=True) as ranks:
        found, computed, num_sent = [], 0, 0
        for is_whole in (True, False):
            torch.manual_seed(0)
            layers = [torch.nn.Linear(512, 512) for _ in range(8)]
            model = torch.nn.Sequential(*layers).cuda()
            if is_whole:
                (model(images).square().sum() / 7).backward()
            else:
                reduction = Reduction(model.parameters(), ddp_options(options)[0], 2)
                for _ in range(2):  # in the first step the ranks also learn what is used
                    reduction.begin()
                    mine = images[batch.begin(rank) : batch.begin(rank) + ranks.share]
                    with counted() as sent:
                        loss = model(mine).square().sum() / 7
                        with reduction.sending():
                            loss.backward()
                        reduction.complete()
                    num_sent = sent[0]
                computed = reduction.num_bytes
            found.append([p.grad.cpu().numpy() for p in model.parameters() if p.grad is not None])
    return found[0], found[1], computed, num_sent


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sums_over_nccl_are_those_of_one_process(
    options: dict[str, Scalar], tmp_path: Path
) -> None:
    tolerance = {"fp16": 2e-3, "bf16": 2e-2}.get(str(options.get("ddp_compression")), 1e-5)
    for whole, summed, computed, sent in found_by_ranks(2, gradients, options, str(tmp_path)):
        assert computed == sent
        for one, other in zip(whole, summed, strict=True):
            assert abs(one - other).max() <= tolerance * abs(one).max()


def on_card(rank: int, batch: BatchPlan, folder: str, order: tuple[int, ...]) -> Stepped:
    """One step of a classifier whose BatchNorm works together, on a card for each rank."""
    torch.cuda.set_device(rank)
    torch.backends.cudnn.allow_tf32 = False
    return stepped(rank, RESNET, batch, ON, folder, order, is_cuda=True)


@pytest.mark.parametrize("micro_batch", [3, 1])
def test_batchnorm_over_cards_is_that_of_one_card(micro_batch: int, tmp_path: Path) -> None:
    """Five samples, 3 + 2; one at a time, the second rank has none for the third piece."""
    order = (0, 1, 2, 3, 4) if micro_batch == 3 else (0, 3, 1, 4, 2)
    alone = BatchPlan(effective_batch=5, world_size=1, micro_batch=5 if micro_batch == 3 else 2)
    whole, kept, _, _, _ = on_card(0, alone, str(tmp_path), order)
    batch = BatchPlan(effective_batch=5, world_size=2, micro_batch=micro_batch)
    for mine, statistics, _, _, _ in found_by_ranks(
        2, on_card, batch, str(tmp_path), (0, 1, 2, 3, 4)
    ):
        assert difference(whole, mine) < 1e-4
        assert difference(kept, statistics) < 1e-4
