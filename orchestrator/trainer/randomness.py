"""Chance that can be taken up again: states of every generator, keyed seeds, safe state files."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.serialization import get_crc32_options, set_crc32_options

from orchestrator.trainer.pack import pack, unpack

__all__ = [
    "host_random_state",
    "host_state_kept",
    "keyed_seed",
    "load_state",
    "random_state",
    "save_state",
    "seed_all",
    "seed_host",
    "set_random_state",
]


def keyed_seed(*key: object) -> int:
    """A seed below 2**63 that depends on the whole key and on nothing else.

    Stable over processes and Python versions (SHA-256 of the key's text), so that sample 7 of
    epoch 3 is augmented alike wherever and whenever it is read.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, CUDA's included."""
    seed_host(seed)
    torch.cuda.manual_seed_all(seed)  # remembered, and done later, where CUDA has not started


def seed_host(seed: int) -> None:
    """Seed the generators that augmentation draws from; CUDA's are left alone.

    Cheap enough to be done for every sample (about 10 microseconds).
    """
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the cards as well


@contextmanager
def host_state_kept() -> Iterator[None]:
    """Put the host's generators back afterwards, whatever the block seeds and draws."""
    python, legacy, state = (
        random.getstate(),
        np.random.get_state(legacy=True),
        torch.get_rng_state(),
    )
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(state)


def random_state() -> dict[str, Any]:
    """The states of Python's, numpy's, torch's and every CUDA card's global generator.

    Holds only what `torch.load(weights_only=True)` accepts: numbers, texts, tuples, tensors.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return host_random_state() | {"cuda": cuda}


def host_random_state() -> dict[str, Any]:
    """The same without the cards: putting it back leaves theirs alone."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, next_gauss = random.getstate()
    return {
        "python": (version, torch.tensor(words), next_gauss),
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "torch": torch.get_rng_state(),
        "cuda": [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` captured.

    A process that sees another number of cards takes the states of those that both have: a run
    may go on on another machine.
    """
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    legacy = state["numpy"]
    np.random.set_state(
        (
            legacy["name"],
            legacy["keys"].numpy().astype(np.uint32),
            legacy["position"],
            legacy["has_gauss"],
            legacy["gauss"],
        )
    )
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for index, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda.cpu(), index)


def save_state(state: Mapping[str, Any], file: BinaryIO) -> None:
    """Write a state of tensors, numbers, texts and containers; `load_state` reads it back.

    Without the checksums of a zip archive, which torch does not look at when it reads: they take
    longer than writing, and a checkpoint has its SHA-256.
    """
    with _no_checksums():
        torch.save(pack(dict(state)), file)


@contextmanager
def _no_checksums() -> Iterator[None]:
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


def load_state(file: BinaryIO) -> dict[str, Any]:
    """Read a state onto the CPU. Only tensors and plain values: a file cannot bring code.

    Raises:
        pickle.UnpicklingError: The file holds anything else.
        ValueError: It was not written by `save_state`, or its parts do not fit each other.
    """
    content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.keys() != {"pools", "places", "layout"}:
        raise ValueError("not a state that orchestrator has written")
    state = unpack(content)
    assert isinstance(state, dict)
    return state
