"""How many samples a piece may have: cut when memory runs out, grown again where there is room."""

from dataclasses import dataclass, field

from orchestrator.types import Bytes

__all__ = ["PieceSize"]

_GROWTH = 1.2
_MARGIN = 0.9  # of the room for samples, when it is cut: the next batch may have more objects


@dataclass(slots=True, kw_only=True)
class PieceSize:
    """The size of a piece with what was learnt about sizes; numbers only, no device.

    Bytes are taken to be linear in the size: `base + slope * size`, the slope from the peak of
    the size that runs.

    Args:
        size: Samples of a piece, from 1.
        ceiling: Never more than this.
        target: Share of the room that a larger piece may be expected to take.
        grow_after: Steps without a fault before a larger piece is tried.
    """

    size: int
    ceiling: int
    target: float = 0.85
    grow_after: int = 50
    failed: int | None = None  # the smallest size that ran out
    failed_room: Bytes = 0  # what there was for it
    _clean: int = field(default=0, init=False)
    _base: Bytes = field(default=0, init=False)
    _peak: Bytes = field(default=0, init=False)  # of the present size; 0 is not known

    @property
    def num_clean(self) -> int:
        """Steps without a fault at this size."""
        return self._clean

    @property
    def may_grow(self) -> bool:
        """True when it is time to ask for `larger`: asking needs the room, which costs a look."""
        return self.size < self.ceiling and self._clean >= self.grow_after and self._peak > 0

    def went_well(self) -> None:
        """A step of this size is done."""
        self._clean += 1

    def measured(self, base: Bytes, peak: Bytes) -> None:
        """Steps of this size began with `base` bytes alive and had at most `peak`."""
        if peak > base:
            self._base, self._peak = base, peak

    def smaller(self, room: Bytes | None) -> int | None:
        """What to try after this size ran out of `room` bytes; None when nothing is left to cut.

        What the measured bytes say fits, where they were measured at this size and explain that
        it no longer does; else half of it, rounded up.
        """
        if self.failed is None or self.size <= self.failed:
            self.failed, self.failed_room = self.size, room or 0
        if self.size == 1:
            return None
        half = -(-self.size // 2)
        fits = self._fits(room)
        return half if fits is None or fits >= self.size else max(1, fits)

    def larger(self, room: Bytes | None) -> int | None:
        """A fifth more, at least one sample, if it is expected to stay below the target.

        Never a size that ran out before, unless there is at least a sample's worth more room now
        than there was then.
        """
        if not self.may_grow or room is None:
            return None
        new = min(self.ceiling, max(self.size + 1, int(self.size * _GROWTH)))
        slope = (self._peak - self._base) / self.size
        if self.failed is not None and room < self.failed_room + slope:
            new = min(new, self.failed - 1)
        if new <= self.size or self._base + slope * new > self.target * room:
            return None
        return new

    def become(self, size: int) -> None:
        """Go on with another size; counting begins anew."""
        self.size = size
        self._clean = 0
        self._peak = 0

    def _fits(self, room: Bytes | None) -> int | None:
        if not self._peak or room is None:
            return None
        slope = (self._peak - self._base) / self.size
        return int(_MARGIN * (room - self._base) / slope)
