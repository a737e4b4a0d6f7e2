"""ultralytics' validation, batch by batch under the governor: a batch that does not fit is cut.

Its validator moves a batch, runs the model, sums the loss, filters the boxes and counts. All of
that happens here for a piece at a time, in the place where it runs the model; what it then does
itself finds the work done. Counts are those of the uncut batch, since they go by image. Loss items
are those of the uncut batch as well: ultralytics divides them by sums over the batch, so items of
pieces are weighted as in a cut step (see `yolo_step`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from orchestrator.trainer.governor import Governor
from orchestrator.trainer.microbatch import OBJECT_KEYS, cut, cut_detection, even_sizes
from orchestrator.trainer.ranks import Ranks
from orchestrator.trainer.yolo_heads import Head, heads_of, whole_items

__all__ = ["governed"]

_GROWING = ("jdict", "pred_counts", "pred", "targets")  # lists of a validator, by name


def governed(validator: Any, governor: Governor, ranks: Ranks, ask: Callable[[], None]) -> Any:
    """Make a validator of ultralytics cut its batches where memory runs out; returns it.

    Args:
        validator: Of a trainer.
        governor: Cuts.
        ranks: Of the gang.
        ask: Called before a batch, on all ranks equally often; may raise to leave.
    """
    kind = type(validator)
    ours = {"governor": governor, "ranks": ranks, "ask": staticmethod(ask)}
    validator.__class__ = type(f"Governed{kind.__name__}", (_Pieces, kind), ours)
    return validator


class _Judged:
    """A batch that is judged: loss items, and what came out by piece, for plots."""

    def __init__(self, items: Mapping[str, Any], outputs: list[Any]) -> None:
        self.items = items
        self.outputs = outputs


if TYPE_CHECKING:
    _Mixed = Any  # whichever validator class follows in the order of resolution
else:
    _Mixed = object


class _Pieces(_Mixed):
    """Mixed into a validator class, before it."""

    governor: Governor
    ranks: Ranks
    ask: Callable[[], None]
    _num_asks = 0  # that are left; the rank with the fewest batches has so many
    _batch: dict[str, Any]
    _own: Any = None  # the model that is judged
    _criterion: Any = None  # whose heads are these
    _heads: Sequence[Head] = ()
    _files: tuple[Path, ...] = ()  # of predictions (`save_txt`), that the present batch wrote

    def get_model(self, model: Any, trainer: Any, **kwargs: Any) -> Any:
        """Let the model of the training judge pieces; its own methods come back afterwards."""
        self._own = super().get_model(model, trainer, **kwargs)
        self._whole, self._loss = self._own.forward, self._own.loss
        return self._own

    def __call__(self, trainer: Any = None, model: Any = None, **kwargs: Any) -> Any:
        """Validate."""
        try:
            return super().__call__(trainer, model, **kwargs)
        finally:
            self._put_back()

    def init_metrics(self, model: Any) -> None:
        """The model is ready: from here on it is asked for batches only."""
        super().init_metrics(model)
        (num_batches,) = self.ranks.summed(len(self.dataloader))
        self._num_asks = round(num_batches) // self.ranks.count
        self._own.forward = lambda images, **rest: self._judge(self._batch, **rest)
        self._own.loss = lambda batch, judged: (None, judged.items)

    def gather_stats(self) -> None:
        """Put together what the ranks of a gang counted, with the mean of all batches' losses.

        ultralytics takes the mean of the ranks' sums and divides it by the batches of rank 0, which
        may have one more than others.
        """
        super().gather_stats()
        if self.ranks.count > 1:
            mine = len(self.dataloader)
            names, values = zip(*self.loss.items(), strict=True)
            *sums, num_batches = self.ranks.summed(*map(float, values), mine)
            factor = len(self.ranks.part_of(0, round(num_batches))) / num_batches
            for name, value in zip(names, sums, strict=True):
                self.loss[name] = torch.full_like(self.loss[name], value * factor)

    def _put_back(self) -> None:
        if self._own is not None:
            for name in ("forward", "loss"):
                vars(self._own).pop(name, None)

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Leave the batch on the host; its pieces are moved."""
        if self._num_asks:
            self._num_asks -= 1
            self.ask()
        self._batch = batch
        return batch

    def postprocess(self, preds: Any) -> Any:
        """Nothing for a batch that is judged."""
        return preds if isinstance(preds, _Judged) else super().postprocess(preds)

    def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
        """Nothing for a batch that is judged."""
        if not isinstance(preds, _Judged):
            super().update_metrics(preds, batch)

    def plot_predictions(self, batch: dict[str, Any], preds: Any, ni: int, **rest: Any) -> None:
        """Plot a batch that is judged."""
        if isinstance(preds, _Judged):
            first = preds.outputs[0]
            is_list = isinstance(first, list)
            preds = (
                [p for part in preds.outputs for p in part] if is_list else torch.cat(preds.outputs)
            )
        super().plot_predictions(batch, preds, ni, **rest)

    def save_one_txt(self, predn: Any, save_conf: bool, shape: Any, file: Path) -> None:  # noqa: FBT001 - as in ultralytics
        """Write the predictions of one image, and know about it: ultralytics appends."""
        self._files += (file,)
        super().save_one_txt(predn, save_conf, shape, file)

    def _judge(self, batch: dict[str, Any], **rest: Any) -> _Judged:
        mark = self._mark()

        def judge(size: int) -> _Judged:
            self._roll_back(mark)
            return self._in_pieces(batch, size, **rest)

        return self.governor.validate(judge, int(batch["img"].shape[0]))

    def _in_pieces(self, batch: dict[str, Any], size: int, **rest: Any) -> _Judged:
        num_images = int(batch["img"].shape[0])
        sizes = even_sizes(num_images, size)
        if len(sizes) == 1:
            items, output = self._one(dict(batch), self._loss, **rest)
            return _Judged(items, [output])
        if self.args.task == "classify":
            parts: list[Any] = cut(batch, sizes)
            judged = [self._one(part, self._loss, **rest) for part in parts]
            weights = [n / num_images for n in sizes]
            items = {
                name: sum(part[name] * w for (part, _), w in zip(judged, weights, strict=True))
                for name in judged[0][0]
            }
            return _Judged(items, [output for _, output in judged])
        if self._criterion is None or self._criterion is not self._own.criterion:
            self._heads = heads_of(self._own, size, num_images)
            self._criterion = self._own.criterion
        head = self._heads[-1]  # whose items are reported
        keys = set(OBJECT_KEYS) | (set() if self.args.overlap_mask else {"masks"})
        records, outputs = [], []
        for piece in cut_detection(batch, sizes, object_keys=keys & batch.keys()):
            items, output = self._one(dict(piece), self._head_loss, **rest)
            records.append((items, dict(head.seen)))
            outputs.append(output)
        return _Judged(whole_items(records), outputs)

    def _head_loss(self, batch: dict[str, Any], preds: Any) -> tuple[None, Any]:
        found = self._heads[-1].criterion.parse_output(preds)
        return None, self._heads[-1].run(found, batch)[1]

    def _one(self, piece: dict[str, Any], loss: Any, **rest: Any) -> tuple[Any, Any]:
        """Everything about one piece, up to its counts; returns loss items and what came out."""
        piece = super().preprocess(piece)
        preds = self._whole(piece["img"], **rest)
        items = loss(piece, preds)[1]
        with torch.autocast(self.device.type, enabled=False):  # as ultralytics does these
            output = super().postprocess(preds)
            del preds
            super().update_metrics(output, piece)
        return items, output if self.args.plots else output[:0]

    def _mark(self) -> dict[str, Any]:
        """Where the counts stand before a batch."""
        self._files = ()
        stats = getattr(self.metrics, "stats", {})
        matrix = getattr(self.confusion_matrix, "matrix", None)
        return {
            "seen": self.seen,
            "lists": {k: len(v) for k in _GROWING if isinstance(v := getattr(self, k, None), list)},
            "stats": {k: len(v) for k, v in stats.items()},
            "matrix": None if matrix is None else matrix.copy(),
        }

    def _roll_back(self, mark: dict[str, Any]) -> None:
        """Forget what a part of the batch had counted before memory ran out."""
        for file in self._files:
            file.unlink(missing_ok=True)
        self._files = ()
        self.seen = mark["seen"]
        for name, length in mark["lists"].items():
            del getattr(self, name)[length:]
        for name, length in mark["stats"].items():
            del self.metrics.stats[name][length:]
        if mark["matrix"] is not None:
            self.confusion_matrix.matrix[:] = mark["matrix"]
