"""The catalogue of GPUs obeys physics and history, and finds what people mean."""

import copy
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

import pytest
import yaml

from orchestrator.device.catalogue import CardModel, catalogue, emulated_cards, find_card, worth_of
from orchestrator.device.catalogue_file import ARCHITECTURES, read_models
from orchestrator.errors import ConfigError

GIB = 1 << 30
MODELS = catalogue()
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
TENSOR_RATES = ("fp16_tensor_tflops", "bf16_tensor_tflops", "tf32_tensor_tflops")
# GB/s and W of whole boards and modules, laptops aside; W also of low-profile ones
BANDWIDTH = {
    "Pascal": (700, 760),
    "Volta": (850, 1140),
    "Turing": (120, 680),
    "Ampere": (160, 2050),
    "Ada": (180, 1010),
    "Hopper": (2000, 4900),
    "Blackwell": (280, 8000),
}
POWER = {
    "Pascal": (250, 300),
    "Volta": (250, 300),
    "Turing": (70, 280),
    "Ampere": (60, 450),
    "Ada": (70, 450),
    "Hopper": (350, 700),
    "Blackwell": (70, 1000),
}
CAPABILITIES = {
    "Pascal": {(6, 0)},
    "Volta": {(7, 0)},
    "Turing": {(7, 5)},
    "Ampere": {(8, 0), (8, 6)},
    "Ada": {(8, 9)},
    "Hopper": {(9, 0)},
    "Blackwell": {(10, 0), (12, 0)},
}


def has_ampere_tensor_cores(model: CardModel) -> bool:
    return ARCHITECTURES.index(model.architecture) >= ARCHITECTURES.index("Ampere")


def test_there_are_at_least_45_gpus_from_the_gtx_1660_ti_to_the_b200() -> None:
    assert len(MODELS) >= 45
    assert {"GTX 1660 Ti", "B200"} <= {model.name for model in MODELS}


@every_model
def test_memory_is_nominal_within_two_percent_less_what_inline_ecc_takes(model: CardModel) -> None:
    nominal = model.nominal_gib * GIB * (15 / 16 if model.has_inline_ecc else 1)
    assert model.memory_bytes == pytest.approx(nominal, rel=0.02)


@every_model
def test_bf16_and_tf32_are_absent_before_ampere_and_come_together(model: CardModel) -> None:
    rates = (model.bf16_tensor_tflops, model.tf32_tensor_tflops)
    if not has_ampere_tensor_cores(model):
        assert rates == (None, None)
    assert (rates[0] is None) == (rates[1] is None)


@every_model
def test_tensor_rates_keep_the_order_of_the_widths(model: CardModel) -> None:
    if model.fp16_tensor_tflops is None:
        assert model.bf16_tensor_tflops is None
        return
    if has_ampere_tensor_cores(model):
        assert model.bf16_tensor_tflops == model.fp16_tensor_tflops
        assert model.tf32_tensor_tflops == pytest.approx(model.fp16_tensor_tflops / 2, rel=0.05)
    if model.int8_tensor_tops is not None:
        assert model.int8_tensor_tops >= 1.98 * model.fp16_tensor_tflops
    assert model.fp32_tflops is not None
    assert model.fp16_tensor_tflops >= 1.98 * model.fp32_tflops


@every_model
def test_bandwidth_and_power_are_in_the_range_of_the_generation(model: CardModel) -> None:
    low, high = BANDWIDTH[model.architecture]
    assert model.bandwidth_gb_s is not None
    assert low <= model.bandwidth_gb_s <= high
    if model.power_watts is not None and model.name != "A16":  # a quarter of a board
        low, high = POWER[model.architecture]
        assert low <= model.power_watts <= high


@every_model
def test_the_compute_capability_is_the_architectures(model: CardModel) -> None:
    assert model.compute_capability in CAPABILITIES[model.architecture]


@every_model
def test_every_entry_names_its_document_and_no_address(model: CardModel) -> None:
    assert len(model.source) > 8
    assert "://" not in model.source
    assert "www" not in model.source


@every_model
def test_a_laptop_has_no_rates_of_its_own(model: CardModel) -> None:
    known = [model.fp32_tflops, model.power_watts, *(getattr(model, r) for r in TENSOR_RATES)]
    assert not model.is_laptop or known == [None] * 5


def test_architectures_appear_in_the_order_of_the_years() -> None:
    first = [
        min(model.year for model in MODELS if model.architecture == name and model.year)
        for name in ARCHITECTURES
    ]
    assert first == sorted(first)


@every_model
def test_a_model_is_found_by_its_name_and_its_aliases(model: CardModel) -> None:
    for name in (model.name, *model.aliases):
        for text in (name, name.lower(), name.replace(" ", "-"), name.replace(" ", "_")):
            assert find_card(text) is model


@every_model
def test_the_drivers_name_with_its_memory_finds_the_model(model: CardModel) -> None:
    same = [m for m in MODELS if m.nvml_name == model.nvml_name]
    text = model.nvml_name
    if len(same) > 1:
        text += f" {model.nominal_gib:g}GB"
    assert find_card(text) is model


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 2060 6GB", "RTX 2060"),
        ("rtx-4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 2060", "RTX 2060"),
        ("RTX 2060 12GB", "RTX 2060 12GB"),
        ("RTX 3080 10GB", "RTX 3080"),
        ("rtx3080 12 GiB", "RTX 3080 12GB"),
        ("A100 40GB", "A100 SXM4 40GB"),
        ("A100-80GB", "A100 SXM4 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA GH200 480GB", "GH200 96GB"),
        ("Tesla T4", "T4"),
        ("RTX 4090 Laptop GPU", "RTX 4090 Laptop"),
    ],
)
def test_people_write_names_in_many_ways(text: str, name: str) -> None:
    assert find_card(text).name == name


@pytest.mark.parametrize("text", ["RTX 2060 8GB", "T4 24GB", "RTX 4090 16GB", "A100 60GB"])
def test_a_size_that_contradicts_the_catalogue_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_card(text)
    assert caught.value.code == "E1051"
    assert "comes with" in str(caught.value)


def test_an_unknown_card_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(ConfigError) as caught:
        find_card("RTX 4081")
    assert caught.value.code == "E1050"
    assert "RTX 4080" in caught.value.why[0]


@pytest.mark.parametrize("text", ["", "   ", "potato", "GB", "0x"])
def test_nonsense_is_an_error_without_a_traceback(text: str) -> None:
    with pytest.raises(ConfigError):
        find_card(text)


def test_a_name_of_several_cards_asks_which() -> None:
    with pytest.raises(ConfigError) as caught:
        find_card("A100")
    assert caught.value.code == "E1052"
    assert "40GB" in str(caught.value)
    assert "80GB" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("6GiB", 6 * GIB),
        ("custom 6GiB", 6 * GIB),
        ("custom 6 GB", 6 * GIB),
        ("512MiB", GIB // 2),
        ("1.5GiB", 3 * GIB // 2),
    ],
)
def test_a_size_alone_is_a_card_of_that_size(text: str, num_bytes: int) -> None:
    model = find_card(text)
    assert model.memory_bytes == num_bytes
    assert model.name.startswith("custom")
    assert model.fp32_tflops is None


@pytest.mark.parametrize("text", ["custom 1MiB", "custom 0GiB", "99999GiB"])
def test_a_size_beyond_reason_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        find_card(text)


def test_emulated_cards_are_numbered_and_say_so() -> None:
    cards = emulated_cards("RTX 2060 6GB,RTX 4080 SUPER 16GB, 2x custom 1GiB")
    assert [card.index for card in cards] == [0, 1, 2, 3]
    assert [card.memory_bytes // GIB for card in cards] == [6, 15, 1, 1]
    assert all(card.is_emulated for card in cards)
    assert len({card.uuid for card in cards}) == 4
    assert cards[:2] == emulated_cards(["RTX 2060", "RTX 4080 SUPER"])


@pytest.mark.parametrize("text", ["", "RTX 2060,", "0x RTX 2060", "99999999999x RTX 2060"])
def test_an_empty_or_endless_list_of_cards_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        emulated_cards(text)


@cache
def document() -> dict[str, Any]:
    text = resources.files("orchestrator.device").joinpath("cards.yaml").read_text("utf-8")
    whole = yaml.safe_load(text)
    return {"documents": whole["documents"], "cards": whole["cards"][:3]}


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    changed = copy.deepcopy(document())
    change(changed)
    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("documents"),
        lambda d: d["cards"][0].pop("power"),
        lambda d: d["cards"][0].update(colour="green"),
        lambda d: d["cards"][0].update(power=-1),
        lambda d: d["cards"][0].update(power="300"),
        lambda d: d["cards"][0].update(source="nowhere"),
        lambda d: d["cards"][0].update(confidence="sure"),
        lambda d: d["cards"][0]["memory"].update(gib=0),
        lambda d: d["cards"][0]["memory"].update(bandwidth=None),
        lambda d: d["cards"][0]["chip"].update(architecture="Fermi"),
        lambda d: d["cards"][0]["chip"].update(laptop=1),
        lambda d: d["cards"].append(d["cards"][0]),
        lambda d: d["cards"][1]["aliases"].append(d["cards"][0]["name"]),
        lambda d: d["cards"].append("RTX 2060"),
    ],
)
def test_a_file_that_breaks_its_rules_does_not_load(
    change: Callable[[dict[str, Any]], object],
) -> None:
    assert len(read_models(broken(lambda _: None))) == 3
    with pytest.raises(ValueError, match=r"cards\.yaml"):
        read_models(broken(change))


def test_worth_orders_cards_as_people_would_and_is_1_where_nothing_is_known() -> None:
    names = ["GTX 1660 Ti", "RTX 2060", "RTX 3060", "RTX 4090", "H100"]
    worths = [worth_of(name) for name in names]
    assert worths == sorted(worths)
    assert worth_of("RTX 2060") == 1.0
    assert worth_of("a card of tomorrow") == 1.0
