"""How fast jobs of measured applications train: by the tables, or as their agents learn it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.messages import StartGang
from orchestrator.schedule.speedup import Speedups
from orchestrator.simulation.agents import StepLaw
from orchestrator.simulation.pollux import Application, Moments, Shape, packed_shape
from orchestrator.simulation.pollux_files import Submission
from orchestrator.simulation.sized import NCF_BATCH, Freedom
from orchestrator.types import Pace, RunSpec, Seconds

__all__ = ["JobSpeeds", "LearnedSpeeds"]


@dataclass(frozen=True, slots=True)
class JobSpeeds:
    """What the tables say of a run, looked up by its job.

    Where the batch is free, the trainer takes the batch of most progress by the statistics of the
    gradient that it saw last, as the published agent does.
    """

    apps: Mapping[str, Application]
    rows: Mapping[str, Submission]
    freedom: Freedom
    gpus_per_node: int
    seen: dict[str, Moments] = field(default_factory=dict)
    trains: dict[str, tuple[Shape, int]] = field(default_factory=dict)  # GPUs and local batch

    def epoch_seconds(self, start: StartGang, epoch: int) -> Seconds:
        """Seconds of an epoch, counted from 1, where the gang is."""
        row = self.rows[start.spec.run_id]
        app = self.apps[row.app]
        nodes = Counter(share.node_id for share in start.placement.shares)
        shape: Shape = tuple(sorted(nodes.values(), reverse=True))
        batch = self._batch(row, shape)
        rate = app.rate(shape, batch, epoch - 1)
        assert rate > 0, f"{row.name} cannot train batch {batch} on {shape}"
        if self.freedom is Freedom.ADAPTIVE:
            local, extra = app.split(batch, sum(shape))
            self.seen[row.name] = app.moments(local * (extra + 1) * sum(shape), epoch - 1)
            self.trains[row.name] = (shape, local)
        begin, end = ((0.0, *app.epoch_ends)[at] for at in (epoch - 1, epoch))
        return (end - begin) / rate

    def epoch_images(self, spec: RunSpec, epoch: int) -> int:
        """Images of an epoch; what they are worth at the starting batch where the batch is free."""
        row = self.rows[spec.run_id]
        app, batch = self.apps[row.app], self.fixed_batch(row)
        begin, end = ((0.0, *app.epoch_ends)[at] for at in (epoch - 1, epoch))
        if batch is None:
            return round((end - begin) * app.least_batch)
        return round((end - begin) / app.gain(batch, app.moments(batch, epoch - 1)) * batch)

    def speedup(self, spec: RunSpec, width: int) -> float:
        """Times faster than on one card; where that cannot train it, in units of the least."""
        row = self.rows[spec.run_id]
        return self.rate(row, width, None) / self.rate(row, self.least_width(row), None)

    def least_width(self, row: Submission) -> int:
        """The fewest cards that can train a job."""
        return next(width for width in range(1, 65) if self.rate(row, width, None) > 0)

    def rate(self, row: Submission, width: int, epoch: int | None) -> float:
        """Progress a second on so many cards, packed; at an epoch (from 0), or as seen last."""
        app, shape = self.apps[row.app], packed_shape(width, self.gpus_per_node)
        if self.freedom is not Freedom.ADAPTIVE or row.app == "ncf":
            return app.rate(shape, self._batch(row, shape), epoch or 0)
        last = self.seen.get(row.name) or app.moments(app.least_batch, 0)
        moments = last if epoch is None else app.moments(app.least_batch, epoch)
        return app.best_batch(shape, moments)[1]

    def fixed_batch(self, row: Submission) -> int | None:
        """The batch that a job has for life; None where it is free."""
        if self.freedom is not Freedom.ADAPTIVE:
            return row.batch
        return NCF_BATCH if row.app == "ncf" else None

    def _batch(self, row: Submission, shape: Shape) -> int:
        fixed = self.fixed_batch(row)
        if fixed is not None:
            return fixed
        app = self.apps[row.app]
        last = self.seen.get(row.name)
        if last is None:
            return max(app.least_batch, app.least_local * sum(shape))
        return app.best_batch(shape, last)[0]


@dataclass(slots=True)
class LearnedSpeeds(Speedups):
    """Speeds of jobs whose batch is free, by what their agents have learned."""

    speeds: JobSpeeds = field(kw_only=True)
    laws: dict[str, StepLaw] = field(default_factory=dict)  # by application

    def progressed(self, spec: RunSpec, width: int, seconds: Seconds, num_images: int = 0) -> None:
        """An epoch is over: what it ran on has been tried."""
        self._tried(spec)
        Speedups.progressed(self, spec, width, seconds, num_images)

    def measured(self, spec: RunSpec, width: int, pace: Pace) -> None:
        """Steps have been measured: what they ran on has been tried."""
        self._tried(spec)
        Speedups.measured(self, spec, width, pace)

    def of(self, spec: RunSpec, width: int) -> float:
        """How many times faster than with the fewest cards that can train it."""
        speeds = self.speeds
        row = speeds.rows[spec.run_id]
        law = self._law(row)
        if not law.widest:
            return Speedups.of(self, spec, width)
        moments = speeds.seen.get(row.name) or law.app.moments(law.app.least_batch, 0)
        least = speeds.least_width(row)
        one, then = (
            law.rate(packed_shape(each, speeds.gpus_per_node), moments)
            for each in (least, max(least, min(width, law.most)))
        )
        return then / one

    def _law(self, row: Submission) -> StepLaw:
        return self.laws.setdefault(row.app, StepLaw(self.speeds.apps[row.app]))

    def _tried(self, spec: RunSpec) -> None:
        row = self.speeds.rows[spec.run_id]
        shape, local = self.speeds.trains[row.name]
        law = self._law(row)
        took = law.app.step_time(shape, local)
        assert took is not None, "what is trained was measured"
        law.tried(shape, local, took)
