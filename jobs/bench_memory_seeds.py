"""Batch tables by rule of thumb, beside the batch that the prediction says is the largest."""

from pathlib import Path

from jobs.bench_memory_yolo import traced
from orchestrator.client.suggest import model_target
from orchestrator.device.catalogue import find_card
from orchestrator.memory.cache import CachedPredictor, TraceCache
from orchestrator.memory.replay import demand, largest
from orchestrator.plan.budget import Headroom, budget_of
from orchestrator.plan.overheads import overheads
from orchestrator.plan.workload import OptimizerState, Workload

__all__ = ["compare_seeds"]

GIB = 1 << 30
# Of a guide for an RTX 2060 with 6 GB: image size, batch, what it says it takes, its verdict.
EFFICIENTNET_B0 = (
    (192, 8, "2.5 GB", "safe; the least"),
    (192, 16, "3.5 GB", "safe"),
    (224, 16, "4.5 GB", "recommended"),
    (224, 24, "6.0 GB", "risky; the most"),
    (224, 32, "7.5 GB", "impossible"),
)
# Of a guide to ConvNeXt Base at 384 pixels: its tiers.
CONVNEXT_TIERS = (
    ("RTX 4090", "48-64"),
    ("RTX 4080", "32-48"),
    ("RTX 3080 10GB", "32-48"),
    ("RTX 4070", "16-32"),
    ("RTX 3070", "16-32"),
    ("RTX 3060 8GB", "8-16"),
    ("RTX 2070", "8-16"),
    ("GTX 1660 Ti", "8-16"),
)
# The same guide's command lines: image size, batch, checkpointing, optimizer on the host.
CONVNEXT_COMMANDS = (
    ("RTX 3080 10GB", 320, 128, False, False),
    ("RTX 3070", 288, 96, False, False),
    ("RTX 3060 8GB", 256, 64, False, False),
    ("RTX 2070", 224, 48, False, False),
    ("RTX 2060", 224, 32, True, False),
    ("GTX 1660 Ti", 192, 16, True, True),
)


def compare_seeds(traces: Path) -> None:
    """Print their tables with ours in further columns."""
    kept = CachedPredictor(TraceCache(traces), traced)
    print("EfficientNet-B0 on an RTX 2060 with 6 GB; ours: AMP, AdamW, EMA, CUDA context counted")
    for imgsz, batch, size, verdict in EFFICIENTNET_B0:
        workload = _classifier("efficientnet_b0", imgsz, has_flash=False)
        asked = demand(kept.trace(workload), batch)
        needed = overheads("Turing").needed_bytes(asked)
        most = _most(kept, workload, "RTX 2060")
        print(
            f"  {batch:3d} @{imgsz}: theirs {size} ({verdict}); ours {needed / GIB:.2f} GiB,"
            f" {'fits' if batch <= most else 'does not fit'}, the largest is {most}"
        )
    print("\nConvNeXt Base at 384 pixels: largest micro-batch, after the default headroom")
    for card, theirs in CONVNEXT_TIERS:
        most = _most(kept, _classifier("convnext_base", 384, has_flash=_is_new(card)), card)
        print(f"  {card}: theirs {theirs}, ours {most}")
    print("\nConvNeXt Base, that guide's command lines")
    for card, imgsz, batch, is_checkpointed, is_on_host in CONVNEXT_COMMANDS:
        workload = _classifier(
            "convnext_base",
            imgsz,
            has_flash=_is_new(card),
            is_checkpointed=is_checkpointed,
            state=OptimizerState.HOST if is_on_host else OptimizerState.CARD,
        )
        most = _most(kept, workload, card)
        print(
            f"  {card} @{imgsz}: theirs {batch}, ours {most}"
            + (", with checkpointing" if is_checkpointed else "")
            + (", optimizer on the host" if is_on_host else "")
        )


def _classifier(
    model: str,
    imgsz: int,
    *,
    has_flash: bool,
    is_checkpointed: bool = False,
    state: OptimizerState = OptimizerState.CARD,
) -> Workload:
    return Workload(
        trainer="timm",
        model=model,
        imgsz=imgsz,
        num_classes=1000,
        has_flash_attention=has_flash,
        is_checkpointed=is_checkpointed,
        optimizer_state=state,
    )


def _is_new(card: str) -> bool:
    return (find_card(card).compute_capability or (0, 0)) >= (8, 0)


def _most(kept: CachedPredictor, workload: Workload, name: str) -> int:
    card = find_card(name)
    budget = budget_of(model_target(card), Headroom())
    capacity = overheads(card.architecture, is_deterministic=False).capacity(budget)
    return largest(kept.trace(workload), capacity)
