"""The config's node types: what an autoscaler may bring, as it is written and as it is used."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from orchestrator.config.fields import Block, Text, memory_given
from orchestrator.types import NodeType

__all__ = ["NodeTypeModel", "labels_of", "node_types_of"]

_GIB = 1 << 30


class NodeTypeModel(Block):
    """A type of node that the cluster's autoscaler has, as runs see it."""

    gpu: Text | None = Field(None, description="its cards, by a name of the catalogue; none: CPUs")
    gpus: int = Field(1, ge=1, le=64, description="cards of one node")
    memory: Annotated[
        int | None, BeforeValidator(memory_given, json_schema_input_type=str | None)
    ] = Field(None, description="of one card; by default what the catalogue says")
    cpus: float = Field(1.0, ge=0, le=4096, description="of one node")
    ram: Annotated[int | None, BeforeValidator(memory_given, json_schema_input_type=str | None)] = (
        Field(None, description="of one node; none: not limited")
    )
    min: int = Field(0, ge=0, le=100_000, description="nodes that always stay")
    max: int = Field(ge=0, le=100_000, description="nodes at the most")
    price: float | None = Field(
        None, gt=0, le=1e6, description="of a node, in any unit; by default by its memory"
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        max_length=16,
        description="that the cluster gives to these nodes alone; default: orc.node-type: its name",
    )
    emulated: bool = Field(default=False, description="its cards are emulated on the CPU")


def labels_of(name: str, model: NodeTypeModel) -> tuple[tuple[str, str], ...]:
    """The labels of a type: those that were given, else one with its name."""
    return tuple(sorted(model.labels.items())) or (("orc.node-type", name),)


def node_types_of(models: Mapping[str, NodeTypeModel]) -> tuple[NodeType, ...]:
    """The types as the scheduler takes them; there are no problems with the models."""
    return tuple(_type_of(name, model) for name, model in models.items())


def _type_of(name: str, model: NodeTypeModel) -> NodeType:
    from orchestrator.device.catalogue import find_card

    gpu, memory = model.gpu or "", model.memory or 0
    if model.gpu is not None and not memory:
        known = find_card(model.gpu)
        gpu, memory = known.nvml_name, known.memory_bytes  # as the nodes will tell it
    num = model.gpus if model.gpu is not None else 0
    worth = num * memory / _GIB if num else model.cpus / 16  # a card is dearer than any CPU
    return NodeType(
        name=name,
        max_nodes=model.max,
        price=worth if model.price is None else model.price,
        gpu=gpu,
        num_cards=num,
        memory_bytes=memory,
        num_cpus=model.cpus,
        host_bytes=model.ram or 0,
        labels=dict(labels_of(name, model)),
        is_emulated=model.emulated,
    )
