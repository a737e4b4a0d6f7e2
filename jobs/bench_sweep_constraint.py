"""Memory as a constraint of a search, against infeasible as zero and against clipping; paired.

`python -m jobs.bench_sweep_constraint [SEEDS]` searches a made-up space of which 60 % fits no card,
with the same searcher (Optuna's TPE) three times for each seed.
"""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Mapping

from scipy.stats import wilcoxon

from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.fold import Study
from orchestrator.sweep.search import Outcome
from orchestrator.sweep.search_optuna import OptunaSearch
from orchestrator.sweep.space import Space, Values, choice, integer, loguniform, sample, uniform
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.sweep.trials import TrialState

__all__ = ["SPACE", "as_zero", "best_so_far", "clipped", "constrained", "main", "need", "score"]

CAPACITY = 16 << 30
SPACE: Space = {
    "width": choice([0.25, 0.5, 0.75, 1.0, 1.25, 1.5]),
    "depth": integer(1, 6),
    "imgsz": integer(256, 1280, 32),
    "lr0": loguniform(1e-5, 1.0),
    "momentum": uniform(0.6, 0.98),
    "weight_decay": loguniform(1e-6, 1e-1),
}


def need(values: Values) -> int:
    """Bytes of one sample: it grows with the pixels, the layers and the square of their width."""
    width, depth, imgsz = (_number(values, key) for key in ("width", "depth", "imgsz"))
    return int(4.84 * 2**30 * (0.4 + depth * (imgsz / 640) ** 2 * (0.35 + width**2)))


def score(values: Values) -> float:
    """Larger is better, with less and less gain, and only under rates that suit the size."""
    width, depth, imgsz = (_number(values, key) for key in ("width", "depth", "imgsz"))
    rate, decay = _number(values, "lr0"), _number(values, "weight_decay")
    size = 1.0 - math.exp(-0.9 * width) * math.exp(-0.35 * depth) * 1.2
    detail = 1.0 - math.exp(-imgsz / 420)
    tuned = math.exp(
        -0.6 * (math.log10(rate) + 2.2 + 0.3 * width) ** 2
        - 6.0 * (_number(values, "momentum") - 0.9) ** 2
        - 0.06 * (math.log10(decay) + 3.3) ** 2
    )
    return size * detail * tuned


def _number(values: Values, key: str) -> float:
    value = values[key]
    assert isinstance(value, int | float)
    return float(value)


def _clipped(values: Values) -> Values:
    """The values with the largest pictures that fit, then with fewer layers, then narrower."""
    found = dict(values)
    widths = sorted(float(w) for w in SPACE["width"].options if isinstance(w, float))
    while need(found) > CAPACITY:
        imgsz, depth = found["imgsz"], found["depth"]
        assert isinstance(imgsz, int)
        assert isinstance(depth, int)
        if imgsz > 256:
            found["imgsz"] = imgsz - 32
        elif depth > 1:
            found["depth"] = depth - 1
        else:
            found["width"] = widths[widths.index(_number(found, "width")) - 1]
    return found


def best_so_far(study: Study, num_trials: int) -> tuple[float, int]:
    """The best score of the first so many trials that were started, and how many were refused."""
    best, started, refused = 0.0, 0, 0
    for trial in study.trials.values():
        if trial.state is TrialState.REFUSED:
            refused += 1
        else:
            started += 1
            best = max(best, *(row.metrics["score"] for row in trial.epochs))
        if started == num_trials:
            break
    return best, refused


def constrained(seed: int, num_trials: int) -> tuple[float, Mapping[str, int]]:
    """As the product does it: planned first, refused, told as a broken limit."""
    runs = StubRuns(
        epochs=1, capacity_bytes=CAPACITY, need=need, metrics=lambda v, _: {"score": score(v)}
    )
    definition = Definition(
        name="bench",
        metrics=("score",),
        modes=("max",),
        space=SPACE,
        config="",
        folder="",
        project="bench",
        trials=num_trials,
        scheduler="none",
        max_concurrent=1,
        seed=seed,
    )
    conductor = Conductor(definition, OptunaSearch(SPACE, seed=seed), runs, _Forgets(), time.time)
    while not conductor.is_done:
        conductor.advance()
    best, refused = best_so_far(conductor.study, num_trials)
    misfits = sum(need(settings) > CAPACITY for settings in runs.launches)
    return best, {"launched": len(runs.launches), "misfits": misfits, "refused": refused}


def as_zero(seed: int, num_trials: int) -> float:
    """Infeasible trials are started, run out of memory, and count as a score of zero."""

    def judged(values: Values) -> tuple[float, bool]:
        fits = need(values) <= CAPACITY
        return (score(values) if fits else 0.0), fits

    return _searched(seed, num_trials, judged)


def clipped(seed: int, num_trials: int) -> float:
    """Infeasible values are replaced by the nearest feasible ones, whose score they get."""
    return _searched(seed, num_trials, lambda values: (score(_clipped(values)), True))


def _searched(seed: int, num_trials: int, judged: Callable[[Values], tuple[float, bool]]) -> float:
    search = OptunaSearch(SPACE, seed=seed)
    best = 0.0
    for number in range(1, num_trials + 1):
        values = search.suggest(number)
        assert values is not None
        value, fits = judged(values)
        search.tell(number, Outcome(scores=(value,)))
        best = max(best, value) if fits else best
    return best


class _Forgets:
    """A record that nobody reads."""

    def record(self, events: object) -> None:
        """Forget it."""


def main(num_seeds: int) -> None:
    """Print the figures as JSON."""
    chance = random.Random(0)
    share = sum(need(sample(SPACE, chance)) > CAPACITY for _ in range(20_000)) / 20_000
    began = time.perf_counter()
    ours, zero, clip, counts = [], [], [], []
    for seed in range(num_seeds):
        best, count = constrained(seed, 100)
        ours.append(best)
        counts.append(count)
        zero.append(as_zero(seed, 100))
        clip.append(clipped(seed, 100))
    _, launches = constrained(10_000, 200)
    told = {
        "share_that_does_not_fit": round(share, 3),
        "of_200_trials": launches,
        "seeds": num_seeds,
        "mean_best_after_100": {
            name: round(sum(scores) / num_seeds, 4)
            for name, scores in (("constraint", ours), ("zero", zero), ("clipping", clip))
        },
        "wins": {
            "over_zero": sum(a > b for a, b in zip(ours, zero, strict=True)),
            "over_clipping": sum(a > b for a, b in zip(ours, clip, strict=True)),
        },
        "p_one_sided_wilcoxon": {
            "over_zero": float(wilcoxon(ours, zero, alternative="greater").pvalue),
            "over_clipping": float(wilcoxon(ours, clip, alternative="greater").pvalue),
        },
        "refused": [count["refused"] for count in counts],
        "misfits_launched": sum(count["misfits"] for count in counts) + launches["misfits"],
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
