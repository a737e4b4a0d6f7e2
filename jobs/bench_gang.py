"""What the ranks of a gang send in a step, computed and counted; images/s beside one process."""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.rank_processes import found_by_ranks

__all__ = ["counted", "main"]

_WARM = 3  # steps before the clock starts


def main() -> None:
    """Print a line for each kind of compression, then the speeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="timm/resnet18")
    parser.add_argument("--imgsz", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="of all ranks together")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    for compression in ("none", "fp16", "bf16", "powersgd"):
        told, sent, speed = found_by_ranks(given.ranks, _rank, given, compression)[0]
        print(
            f"{compression:9} {told / 2**20:8.2f} MiB a step as computed, {sent / 2**20:8.2f} MiB"
            f" as counted; {speed:.1f} images/s on {given.ranks} ranks",
            flush=True,
        )
        if told != sent:
            raise SystemExit(f"{compression}: {told} bytes were computed, {sent} were sent")
    one = argparse.Namespace(**{**vars(given), "ranks": 1})
    alone = found_by_ranks(1, _rank, one, "none")[0][2]
    print(f"one process: {alone:.1f} images/s; a ring sends 2 (n - 1) / n times the bytes a rank")
    if not _has_cards(given.ranks):
        print(
            f"{os.cpu_count()} CPUs and no card a rank: speeds say nothing about a gang, whose"
            " ranks here take the processor from one another"
        )


def _has_cards(count: int) -> bool:
    import torch

    return torch.cuda.device_count() >= count


def _rank(rank: int, given: argparse.Namespace, compression: str) -> tuple[int, int, float]:
    """Bytes as computed and as counted of the last step, and images/s of the gang."""
    import torch

    from jobs.gang_work import learner_of, task_of
    from orchestrator.trainer.options_ddp import ddp_options
    from orchestrator.trainer.ranks import joined

    is_cuda = _has_cards(given.ranks)
    if is_cuda:
        torch.cuda.set_device(rank)
    task = task_of(given, compression, rank)
    with joined(task, ddp_options(task.spec.settings.options)[0], is_cuda=is_cuda) as ranks:
        device = torch.device("cuda", rank) if is_cuda else torch.device("cpu")
        learner = learner_of(task, ranks, device)
        images = torch.randn(ranks.share, 3, given.imgsz, given.imgsz)
        batch = images, torch.randint(0, 1000, (ranks.share,))
        num_sent, begin = 0, 0.0
        for step in range(_WARM + given.steps):
            if step == _WARM:
                _wait(is_cuda=is_cuda)
                begin = time.perf_counter()
            with counted() as sent:
                learner.learn(batch)
            num_sent = sent[0]
        _wait(is_cuda=is_cuda)
        speed = given.steps * given.batch / (time.perf_counter() - begin)
        return learner.sent_bytes, num_sent, speed


@contextmanager
def counted() -> Iterator[list[int]]:
    """Bytes of gradients that this process hands to sums over ranks while inside."""
    from torch import distributed

    original, found = distributed.all_reduce, [0]

    def all_reduce(tensor: Any, *given: Any, **named: Any) -> Any:
        if named.get("op", distributed.ReduceOp.SUM) == distributed.ReduceOp.SUM:
            found[0] += tensor.numel() * tensor.element_size()
        return original(tensor, *given, **named)

    distributed.all_reduce = all_reduce
    try:
        yield found
    finally:
        distributed.all_reduce = original


def _wait(*, is_cuda: bool) -> None:
    if is_cuda:
        import torch

        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
