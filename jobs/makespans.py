"""When the last job of each published run ended, which the table of published results leaves out.

The latest end, in seconds, over the authors' results by job (`simulator/results-jobload` of the
artifact of Pollux), each counted from the submission that the job list tells.
"""

from collections.abc import Mapping

__all__ = ["MAKESPANS"]

MAKESPANS: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("workloads", "tiresias"): {"1": 83751.0, "2": 85625.0, "3": 55541.0, "4": 98885.0},
    ("workloads", "optimus"): {"1": 72422.0, "2": 64224.0, "3": 45299.0, "4": 68486.0},
    ("workloads", "pollux"): {"1": 64849.0, "2": 56644.0, "3": 36806.0, "4": 64694.0},
    ("workloads-2.0", "tiresias"): {"1": 203624.0, "2": 117731.0, "3": 83419.0, "4": 152765.0},
    ("workloads-2.0", "optimus"): {"1": 160733.0, "2": 87245.0, "3": 68128.0, "4": 107304.0},
    ("workloads-2.0", "pollux"): {"1": 134515.0, "2": 75850.0, "3": 58158.0, "4": 95080.0},
}
"""Seconds by set of job lists and published policy, and by workload."""
