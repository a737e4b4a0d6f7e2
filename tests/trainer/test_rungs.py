"""What a run gives up to fit: fewer bytes on the card, and the same numbers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from orchestrator.config.options import check_option
from orchestrator.device.emulated import EmulatedDevice
from orchestrator.errors import ConfigError
from orchestrator.plan.workload import OptimizerState
from orchestrator.trainer.classifier import make_model
from orchestrator.trainer.learner import Learner
from orchestrator.trainer.optimizer_place import HostMemory, placed
from orchestrator.trainer.options_memory import can_8bit
from orchestrator.trainer.options_timm import TimmOptions
from orchestrator.trainer.timm import TimmTrainer
from orchestrator.types import BatchPlan, Card, Outcome, TrainSettings
from tests.contracts.trainer import Killed, RecordingLink, attempt_of, values
from tests.trainer.picture_folders import make_pictures

BATCH = 6
LIGHT: dict[str, Any] = {"grad_checkpointing": True, "optimizer_state": "host"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def card(mib: int = 4096) -> EmulatedDevice:
    return EmulatedDevice(
        Card(index=0, name="card", memory_bytes=mib << 20, is_emulated=True), mib << 20
    )


def learner_of(
    model: str,
    micro_batch: int = BATCH,
    *,
    amp: str = "fp32",
    size: int = 64,
    host: HostMemory | None = None,
    **given: Any,
) -> Learner:
    torch.manual_seed(0)
    settings = TrainSettings(model=f"timm/{model}", data="", imgsz=size, epochs=9, amp=amp)
    options = TimmOptions(**({"dropout": 0.3, "drop_path": 0.2} | given))
    made = make_model(settings, options, 3)
    return Learner(
        made,
        settings,
        options,
        device=torch.device("cpu"),
        micro_batch=micro_batch,
        steps_per_epoch=5,
        host=host,
    )


def learnt(learner: Learner, steps: int = 3, size: int = 64) -> dict[str, Tensor]:
    """Weights, statistics, and the state of chance after some steps."""
    chance = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    for _ in range(steps):
        images = torch.rand(BATCH, 3, size, size, generator=chance)
        learner.learn((images, torch.randint(0, 3, (BATCH,), generator=chance)))
    state = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    return state | {"chance": torch.get_rng_state()}


def assert_alike(found: dict[str, Tensor], wanted: dict[str, Tensor], rtol: float) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=rtol, atol=1e-7, msg=name)


@pytest.mark.parametrize("micro_batch", [BATCH, 4])
@pytest.mark.parametrize("amp", ["fp32", "bf16"])
@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_learns_the_same_from_layers_that_are_computed_twice(
    model: str, amp: str, micro_batch: int
) -> None:
    plain = learnt(learner_of(model, micro_batch, amp=amp))
    again = learner_of(model, micro_batch, amp=amp, grad_checkpointing=True)
    assert_alike(learnt(again), plain, rtol=1e-5)


def test_the_averaged_weights_and_the_state_that_is_saved_do_not_change() -> None:
    plain, light = learner_of("test_resnet"), learner_of("test_resnet", **LIGHT)
    for learner in (plain, light):
        learnt(learner)
    assert_alike(light.weights(), plain.weights(), rtol=1e-5)
    states = [learner.state()["optimizer"] for learner in (plain, light)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, state in states[0]["state"].items():
        assert_alike(states[1]["state"][number], state, rtol=1e-5)


def test_checkpointing_holds_fewer_bytes() -> None:
    peaks = []
    for is_checkpointed in (False, True):
        device = card()
        with device.session():
            learnt(learner_of("test_vit", size=160, grad_checkpointing=is_checkpointed), size=160)
        peaks.append(device.peak_bytes())
    assert peaks[1] < 0.9 * peaks[0]


def test_a_model_without_checkpointing_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="inception_v4 has no gradient checkpointing") as caught:
        learner_of("inception_v4", drop_path=0.0, grad_checkpointing=True)
    assert caught.value.code == "E1122"
    assert caught.value.fix


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 3))


Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "AdamW": partial(torch.optim.AdamW, lr=1e-2),
    "SGD": partial(torch.optim.SGD, lr=1e-2, momentum=0.9, nesterov=True),
    "RMSprop": partial(torch.optim.RMSprop, lr=1e-2, momentum=0.9),
    "NAdam": partial(torch.optim.NAdam, lr=1e-2),
    "RAdam": partial(torch.optim.RAdam, lr=1e-2),
    "Adagrad": partial(torch.optim.Adagrad, lr=1e-2),  # makes its state at once
}


def groups_of(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2], "weight_decay": 0.0}, {"params": parameters[2:]}]


def trained(name: str, *places: OptimizerState) -> dict[str, Tensor]:
    """Weights after three steps a place; between places everything goes through a checkpoint."""
    model, saved = network(), None
    chance = torch.Generator().manual_seed(1)
    for place in places:
        optimizer = placed(OPTIMIZERS[name](groups_of(model)), place, HostMemory())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        if saved is not None:
            optimizer.load_state_dict(saved)
        for _ in range(3):
            loss = model(torch.rand(16, 8, generator=chance)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        saved = optimizer.state_dict()
    return dict(model.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_on_the_host_changes_no_update_and_no_checkpoint(name: str) -> None:
    there, here = OptimizerState.HOST, OptimizerState.CARD
    wanted = trained(name, here, here, here)
    assert_alike(trained(name, there, there, there), wanted, rtol=1e-6)
    assert_alike(trained(name, here, there, here), wanted, rtol=1e-6)


def test_state_on_the_host_takes_nothing_of_the_card_between_updates() -> None:
    held, state = {}, 0
    for place in ("card", "host"):
        device = card()
        with device.session():
            host = HostMemory(entered=device.host)
            learner = learner_of("test_vit", host=host, optimizer_state=place)
            learnt(learner)
            held[place] = device.live_bytes()
            state = 2 * sum(p.numel() * p.element_size() for p in learner.model.parameters())
    assert held["card"] - held["host"] == pytest.approx(state, rel=0.1)


@pytest.mark.parametrize(
    ("name", "place", "code"),
    [("lamb", "host", "E1123"), ("sgd", "8bit", "E1124"), ("adamw", "8bit", "E1125")],
)
def test_an_optimizer_that_has_no_such_form_is_refused(name: str, place: str, code: str) -> None:
    if code == "E1125" and can_8bit() and torch.cuda.is_available():
        pytest.skip("it can be had here")
    optimizer = create_optimizer_v2(network(), opt=name, lr=0.1)
    with pytest.raises(ConfigError) as caught:
        placed(optimizer, OptimizerState(place), HostMemory())
    assert caught.value.code == code
    assert caught.value.fix


@pytest.mark.parametrize("trainer", ["yolo", "timm"])
def test_both_trainers_check_the_keys(trainer: str) -> None:
    check_option(trainer, "grad_checkpointing", value=True)
    check_option(trainer, "optimizer_state", value="host")
    for key, value in (("grad_checkpointing", "on"), ("optimizer_state", "disk")):
        with pytest.raises(ConfigError, match=key):
            check_option(trainer, key, value)


def test_a_light_classifier_that_was_killed_ends_like_a_plain_one(tmp_path: Path) -> None:
    make_pictures(tmp_path / "set/train", each=8)
    make_pictures(tmp_path / "set/val", each=4, seed=1)
    settings = TrainSettings(
        model="timm/test_resnet.r160_in1k",
        data=str(tmp_path / "set"),
        imgsz=32,
        epochs=3,
        workers=0,
    )
    light = replace(settings, options=LIGHT)
    batch = BatchPlan(effective_batch=8, world_size=1, micro_batch=3)

    def fit(name: str, given: TrainSettings, **link: Any) -> tuple[Outcome, RecordingLink]:
        told, outcome = RecordingLink(tmp_path / name / "checkpoints", **link), Outcome.YIELDED
        task, device = attempt_of(given, tmp_path / name, batch=batch), card()
        try:
            with device.session():
                outcome, _ = TimmTrainer().fit(task, device, told)
        except Killed:
            pass
        return outcome, told

    _, plain = fit("plain", settings)
    _, first = fit("light", light, kill_after=1)
    outcome, second = fit("light", light, resume_from=first.saved[-1])
    assert outcome is Outcome.FINISHED
    near = [pytest.approx(metrics, rel=1e-4, abs=1e-4) for metrics in values(plain.reported)]
    assert values(first.reported + second.reported) == near
    text = (tmp_path / "light/args.yaml").read_text()
    assert "grad_checkpointing: true" in text
    assert "optimizer_state: host" in text


def test_an_encoder_without_a_classifier_is_refused_before_it_trains() -> None:
    settings = TrainSettings(model="timm/gemma4_vit_167m_enc", data="", imgsz=768, epochs=1)
    with torch.device("meta"), pytest.raises(ConfigError, match="cannot be trained") as caught:
        make_model(settings, TimmOptions(), 3)
    assert caught.value.code == "E1119"
