"""Memory as a constraint of a search, against infeasible as zero and against clipping; paired.

`python -m jobs.bench_sweep_constraint [FIRST LAST [SEARCH]]` searches made-up landscapes
(jobs.landscapes), of which 60 % fits no card, three times for each seed from FIRST to LAST, with
the same searcher (gp or tpe, ten suggestions by chance) and 100 trials each. The seed draws the
landscape too.

* constraint: as the product does it. What does not fit is refused, which is no trial.
* zero: it is started, runs out of memory, and has the score zero.
* clipping: its nearest settings that fit are trained in its place, and it has their score.

The design was chosen with seeds below 1000; those from 1000 on are for its evaluation.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from scipy.stats import wilcoxon

from jobs.landscapes import SPACE, Landscape, capacity, clipped, fits, need
from orchestrator.sweep.conducting import fits_of, searcher_of
from orchestrator.sweep.conductor import Conductor
from orchestrator.sweep.definition import Definition
from orchestrator.sweep.fold import Study
from orchestrator.sweep.search import Outcome
from orchestrator.sweep.space import Values, sample
from orchestrator.sweep.stub_runs import StubRuns
from orchestrator.sweep.trials import TrialState

__all__ = ["as_zero", "by_clipping", "constrained", "main"]

_TRIALS = 100


def _definition(seed: int, search: str, num_trials: int = _TRIALS) -> Definition:
    return Definition(
        search=search,
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


def constrained(
    seed: int, search: str, num_trials: int = _TRIALS
) -> tuple[float, Mapping[str, int]]:
    """The best score as the product searches, and how many runs were launched and refused."""
    landscape = Landscape.drawn(seed)
    runs = StubRuns(
        epochs=1,
        capacity_bytes=capacity(),
        need=need,
        metrics=lambda values, _: {"score": landscape.score(values)},
    )
    definition = _definition(seed, search, num_trials)
    searcher = searcher_of(definition, fits_of(definition, runs))
    conductor = Conductor(definition, searcher, runs, _Forgets(), time.time)
    while not conductor.is_done:
        conductor.advance()
    misfits = sum(not fits(settings) for settings in runs.launches)
    return _best(conductor.study), {
        "launched": len(runs.launches),
        "misfits": misfits,
        "refused": conductor.study.num_refused,
    }


def _best(study: Study) -> float:
    started = [t for t in study.trials.values() if t.state is not TrialState.REFUSED]
    return max(row.metrics["score"] for trial in started for row in trial.epochs)


def as_zero(seed: int, search: str) -> float:
    """The best feasible score where infeasible trials count as zero."""
    landscape = Landscape.drawn(seed)

    def judged(values: Values) -> float:
        return landscape.score(values) if fits(values) else 0.0

    return _searched(seed, search, judged)


def by_clipping(seed: int, search: str) -> float:
    """The best score where infeasible values are trained as the nearest feasible ones."""
    landscape = Landscape.drawn(seed)
    return _searched(seed, search, lambda values: landscape.score(clipped(values)))


def _searched(seed: int, search: str, judged: Callable[[Values], float]) -> float:
    searcher = searcher_of(_definition(seed, search))
    best = 0.0
    for number in range(1, _TRIALS + 1):
        values = searcher.suggest(number)
        assert values is not None
        score = judged(values)
        searcher.tell(number, Outcome(scores=(score,)))
        best = max(best, score)
    return best


class _Forgets:
    """A record that nobody reads."""

    def record(self, events: object) -> None:
        """Forget it."""


def _compared(ours: list[float], others: Mapping[str, list[float]]) -> dict[str, Any]:
    """Wins, the mean difference and the p of Wilcoxon's signed ranks, one-sided, over each."""
    return {
        f"over_{name}": {
            "wins": sum(a > b for a, b in zip(ours, scores, strict=True)),
            "mean_difference": round(sum(ours) / len(ours) - sum(scores) / len(scores), 4),
            "p": round(float(wilcoxon(ours, scores, alternative="greater").pvalue), 5),
        }
        for name, scores in others.items()
    }


def main(first: int, last: int, search: str) -> None:
    """Print the figures as JSON."""
    chance = random.Random(1)
    share = sum(not fits(sample(SPACE, chance)) for _ in range(20_000)) / 20_000
    began = time.perf_counter()
    seeds = range(first, last + 1)
    ours, counts, others = [], [], {"zero": list[float](), "clipping": list[float]()}
    for seed in seeds:
        best, count = constrained(seed, search)
        ours.append(best)
        counts.append(count)
        others["zero"].append(as_zero(seed, search))
        others["clipping"].append(by_clipping(seed, search))
        now = {name: round(scores[-1], 4) for name, scores in others.items()}
        print(json.dumps({"seed": seed, "constraint": round(best, 4), **now}), flush=True)
    _, launches = constrained(last + 1, search, 200)
    told = {
        "search": search,
        "share_that_does_not_fit": round(share, 3),
        "of_200_trials": launches,
        "seeds": [first, last],
        "best_after_100": {
            name: [round(score, 4) for score in scores]
            for name, scores in (("constraint", ours), *others.items())
        },
        **_compared(ours, others),
        "refused": [count["refused"] for count in counts],
        "misfits_launched": sum(count["misfits"] for count in counts) + launches["misfits"],
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    words = dict(enumerate(sys.argv[1:]))
    main(int(words.get(0, "1000")), int(words.get(1, "1009")), words.get(2, "gp"))
