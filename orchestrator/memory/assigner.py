"""The assigner that scores masks: it takes a large batch in chunks, whose number varies."""

from types import FunctionType
from typing import Any

from orchestrator.memory.answers import Answers
from orchestrator.memory.tracker import Tracker

__all__ = ["in_one_chunk"]

# ultralytics/utils/tal.py, `SegTaskAlignedAssigner.pair_overlaps`: pixels of masks in a chunk.
_PIXELS = 1 << 27
_ALL = 1 << 62
_PROTO = 7  # its position among the arguments


def in_one_chunk(assigner: Any, answers: Answers, tracker: Tracker) -> None:
    """Let an assigner of masks take any batch in one chunk, as its trace is a line in the batch.

    Storages of masks are noted to grow no further than a chunk does; of those that outlive one,
    two are alive at a time. Assigners that know no chunks are left alone.
    """
    whole = getattr(type(assigner), "pair_overlaps", None)
    if not isinstance(whole, FunctionType) or _PIXELS not in whole.__code__.co_consts:
        return
    constants = tuple(_ALL if value == _PIXELS else value for value in whole.__code__.co_consts)
    code = whole.__code__.replace(co_consts=constants)
    at_once = FunctionType(
        code, whole.__globals__, whole.__name__, whole.__defaults__, whole.__closure__
    )

    def watched(*given: Any, **named: Any) -> Any:
        proto = named["proto"] if "proto" in named else given[_PROTO]
        pixels = proto.shape[-2] * proto.shape[-1]
        images = max(1, _PIXELS // max(1, answers.looked_at * pixels))
        with tracker.in_portions(images, proto.shape[0] * pixels):
            return at_once(assigner, *given, **named)

    assigner.pair_overlaps = watched
