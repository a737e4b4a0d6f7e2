"""The tracker counts each live storage once, and nothing else."""

import copy
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from orchestrator.device.live import LiveBytes, block_bytes

KIB = 1024


@pytest.fixture
def live() -> LiveBytes:
    return LiveBytes(keep_events=True)


def zeros(num_bytes: int) -> torch.Tensor:
    return torch.zeros(num_bytes, dtype=torch.uint8)


@given(st.integers(0, 1 << 40))
def test_a_block_is_the_next_multiple_of_512(num_bytes: int) -> None:
    block = block_bytes(num_bytes)
    assert block % 512 == 0
    assert num_bytes <= block < num_bytes + 512


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.booleans()), max_size=30))
def test_live_is_the_sum_of_what_is_alive_and_peak_its_maximum(
    steps: list[tuple[int, bool]],
) -> None:
    live = LiveBytes()
    held: list[torch.Tensor] = []
    peak = 0
    with live:
        for num_bytes, drops in steps:
            held.append(zeros(num_bytes))
            peak = max(peak, sum(block_bytes(t.numel()) for t in held))
            if drops:
                del held[0]
            assert live.live_bytes == sum(block_bytes(t.numel()) for t in held)
    assert live.peak_bytes == peak
    held.clear()
    assert live.live_bytes == 0


def views() -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    yield lambda t: t.view(2, -1)
    yield lambda t: t[3:9]
    yield lambda t: t.detach()
    yield lambda t: t.to("cpu")
    yield lambda t: t.add_(1)
    yield lambda t: t.contiguous()
    yield lambda t: torch.as_strided(t, (4,), (2,))
    yield lambda t: torch.nn.Parameter(t, requires_grad=False)


@pytest.mark.parametrize("view", list(views()))
def test_views_and_aliases_count_once(
    live: LiveBytes, view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    with live:
        tensor = zeros(4 * KIB)
        alias = view(tensor)
        assert live.live_bytes == 4 * KIB
        del tensor
        assert live.live_bytes == 4 * KIB
        del alias
        assert live.live_bytes == 0


def test_a_deepcopy_counts_again(live: LiveBytes) -> None:
    with live:
        tensor = zeros(4 * KIB)
        other = copy.deepcopy(tensor)
        assert live.live_bytes == 8 * KIB
        del tensor, other
        assert live.live_bytes == 0


def test_a_tensor_from_before_counts_from_its_first_use(live: LiveBytes) -> None:
    before = zeros(4 * KIB)
    with live:
        assert live.live_bytes == 0
        result = before[:8] + 1
        assert live.live_bytes == 4 * KIB + 512
        del result
    assert live.live_bytes == 4 * KIB
    del before
    assert live.live_bytes == 0


def test_adopted_tensors_count_at_once_and_only_once(live: LiveBytes) -> None:
    model = torch.nn.Linear(32, 32)
    live.adopt(model.parameters())
    live.adopt(model.parameters())
    assert live.live_bytes == 32 * 32 * 4 + 512
    with live:
        assert model(torch.zeros(1, 32)).shape == (1, 32)
    assert live.live_bytes == 32 * 32 * 4 + 512


def test_adopting_beyond_the_limit_is_refused() -> None:
    live = LiveBytes(limit_bytes=4 * KIB)
    with pytest.raises(torch.OutOfMemoryError):
        live.adopt([zeros(3 * KIB), zeros(2 * KIB)])
    assert live.peak_bytes == 3 * KIB


def test_growing_in_place_counts_what_it_grew_to(live: LiveBytes) -> None:
    with live:
        tensor = zeros(KIB)
        tensor.resize_(8 * KIB)
        assert live.live_bytes == 8 * KIB
        out = torch.empty(0, dtype=torch.uint8)
        torch.cat([tensor, tensor], out=out)
        assert live.live_bytes == 24 * KIB
        del tensor, out
        assert live.live_bytes == 0


def test_tensors_of_other_devices_do_not_count(live: LiveBytes) -> None:
    with live:
        tensor = torch.zeros(KIB, device="meta")
        assert tensor.numel() == KIB
    assert live.live_bytes == 0


def test_a_sparse_tensor_counts_its_indices_and_values(live: LiveBytes) -> None:
    with live:
        indices, values = torch.zeros(1, 128, dtype=torch.int64), torch.ones(128)
        sparse = torch.sparse_coo_tensor(indices, values, (4,), check_invariants=False)
        del indices, values
        summed = sparse.coalesce()
        assert live.live_bytes >= 128 * 8 + 128 * 4
        del sparse, summed
    assert live.live_bytes == 0


def test_host_memory_counts_only_once_an_operator_outside_reads_it(live: LiveBytes) -> None:
    with live:
        with live.host():
            batch = torch.stack([zeros(KIB), zeros(KIB)])
        assert live.live_bytes == 0
        moved = batch.to("cpu")
        assert live.live_bytes == 0
        images = moved.float()
        assert live.live_bytes == 2 * KIB + 8 * KIB
        assert images.shape == (2, KIB)


@pytest.mark.parametrize("num_workers", [0])
def test_what_a_data_loader_prepares_is_host_memory(live: LiveBytes, num_workers: int) -> None:
    data = TensorDataset(torch.zeros(8, KIB))
    with live:
        for (batch,) in DataLoader(data, batch_size=4, num_workers=num_workers):
            assert live.live_bytes <= 512
            loss = (batch * 2).sum()
            assert live.live_bytes >= 4 * KIB * 4
            del batch, loss
            assert live.live_bytes <= 512
    assert live.peak_bytes <= 2 * 4 * KIB * 4 + 1024


def test_a_loader_that_fails_does_not_hide_what_follows(live: LiveBytes) -> None:
    class Broken(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            raise LookupError

    with live:
        with pytest.raises(LookupError):
            next(iter(DataLoader(Broken(torch.zeros(2)))))
        tensor = zeros(KIB)
        assert live.live_bytes >= KIB
        assert tensor.numel() == KIB


def test_events_balance_and_name_the_operator(live: LiveBytes) -> None:
    with live:
        tensor = zeros(1000)
        other = tensor + 1
    del tensor, other
    assert live.live_bytes == 0
    assert live.events is not None
    births = {e.storage: e.num_bytes for e in live.events if e.num_bytes > 0}
    deaths = {e.storage: -e.num_bytes for e in live.events if e.num_bytes < 0}
    assert births == deaths
    assert any("aten.add" in e.op for e in live.events)


def test_it_counts_fake_cuda_tensors_when_told_to() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    live = LiveBytes(device_type="cuda")
    with FakeTensorMode(allow_non_fake_inputs=True), live:
        tensor = torch.empty(KIB, device="cuda")
        host = torch.empty(KIB)
        other = tensor * 2
        assert live.live_bytes == 2 * 4 * KIB
        del tensor, other, host
    assert live.live_bytes == 0


def model_and_data() -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, optimizer, torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])


def train_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> float:
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    value = float(loss.detach())
    del loss
    optimizer.step()
    optimizer.zero_grad()
    return value


def test_training_under_the_tracker_gives_the_same_bits() -> None:
    losses, weights = [], []
    for live in (None, LiveBytes(limit_bytes=1 << 40)):
        model, optimizer, x, y = model_and_data()
        if live is None:
            losses.append([train_step(model, optimizer, x, y) for _ in range(2)])
        else:
            with live:
                losses.append([train_step(model, optimizer, x, y) for _ in range(2)])
        weights.append([p.detach().clone() for p in model.state_dict().values()])
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_peak_of_a_training_step_is_what_torch_allocates_within_one_percent() -> None:
    model, optimizer, x, y = model_and_data()
    train_step(model, optimizer, x, y)  # the optimizer's state exists from here on
    resident = [*model.parameters(), *model.buffers(), x, y]
    resident += [state["momentum_buffer"] for state in optimizer.state.values()]
    live = LiveBytes()
    live.adopt(resident)
    with live:
        train_step(model, optimizer, x, y)

    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        train_step(model, optimizer, x, y)
    held = peak = sum(t.untyped_storage().nbytes() for t in resident)
    results = profile.profiler.kineto_results
    for event in results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert live.peak_bytes == pytest.approx(peak, rel=0.01)


def test_what_is_left_after_training_is_the_model_and_the_optimizer() -> None:
    model, optimizer, x, y = model_and_data()
    live = LiveBytes()
    with live:
        train_step(model, optimizer, x, y)
        del x, y
    state = [s["momentum_buffer"] for s in optimizer.state.values()]
    resident = [*model.parameters(), *model.buffers(), *state]
    assert live.live_bytes == sum(block_bytes(t.untyped_storage().nbytes()) for t in resident)
