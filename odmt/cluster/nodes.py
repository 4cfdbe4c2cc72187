"""The nodes of the Ray that we are connected to, under names that tell two nodes of one machine apart."""

import socket
from typing import Any, NamedTuple

_SHOWN_ID = 12
_ACCELERATOR = "accelerator_type:"


class Node(NamedTuple):
    """A node that is alive.

    Attributes:
        node_id: Ray's.
        host: host name and the first characters of the id; what reports and the event log say.
        address: IP address; simulated nodes share one.
        cpus: in all, whoever uses them.
        gpus: in all.
        accelerators: types of its GPUs, as Ray names them.
        store_bytes: of its object store.
    """

    node_id: str
    host: str
    address: str
    cpus: float
    gpus: float
    accelerators: tuple[str, ...] = ()
    store_bytes: float = 0.0


def host_name(hostname: str, node_id: str) -> str:
    """Return what a node is called: a machine may hold several, and a new start of Ray is a new node."""
    return f"{hostname}/{node_id[:_SHOWN_ID]}"


def this_host() -> str:
    """Return the name of the node that this process runs on."""
    import ray

    return host_name(socket.gethostname(), ray.get_runtime_context().get_node_id())


def alive_nodes() -> list[Node]:
    """Return the nodes that are alive now."""
    import ray

    return [_node(told) for told in ray.nodes() if told["Alive"]]


def _node(told: dict[str, Any]) -> Node:
    held = told["Resources"]
    return Node(
        node_id=told["NodeID"],
        host=host_name(told["NodeManagerHostname"], told["NodeID"]),
        address=told["NodeManagerAddress"],
        cpus=held.get("CPU", 0.0),
        gpus=held.get("GPU", 0.0),
        accelerators=tuple(sorted(name.removeprefix(_ACCELERATOR) for name in held if name.startswith(_ACCELERATOR))),
        store_bytes=held.get("object_store_memory", 0.0),
    )
