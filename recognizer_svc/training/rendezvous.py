"""How the nodes and the ranks of a job meet: torch's dynamic rendezvous, with stores that listen on one address.

Torch's own stores listen on every address of the machine, and it unpickles what its rendezvous reads there, so whoever
reached the port could run code. Here a job of one node has no port for the rendezvous, the stores of other jobs listen
on the address of the operator's interface, and nothing but the rendezvous' own types is unpickled.
"""

import pickle
import socket
from datetime import timedelta
from io import BytesIO
from typing import Any

import psutil
from torch.distributed import HashStore, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # torch's
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStateError,
    RendezvousStoreInfo,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import DEFAULT_PORT, C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

from stal_data.errors import ConflictError, InputError
from stal_data.hosts import is_loopback

NAME = "stal"
"""Under which the launcher registers it."""
_PATIENCE_S = 60
"""How long the other nodes look for node 0, and wait for what it is to write; as with torch's own rendezvous, which
takes it from the same setting."""
_DYNAMIC = "torch.distributed.elastic.rendezvous.dynamic_rendezvous"
_STATE_TYPES = frozenset(
    [
        *((_DYNAMIC, name) for name in ("_RendezvousState", "_NodeDesc")),
        *(("datetime", name) for name in ("datetime", "timedelta", "timezone")),
    ]
)


def create(parameters: RendezvousParameters) -> RendezvousHandler:
    """What torch's registry calls, with the launcher's options.

    The node with `is_host` in its configuration holds the store in which the nodes meet.
    """
    address = parameters.local_addr
    if not address:
        raise InputError("The launcher needs --local-addr, the address at which its stores listen.")
    store: Store
    if parameters.max_nodes == 1:
        store = HashStore()
    else:
        host, port = parse_rendezvous_endpoint(parameters.endpoint, default_port=DEFAULT_PORT)
        if parameters.get_as_bool("is_host"):
            _check_leads_here(host, address)
            store = listening_store(address, port)
        else:
            store = _store_of_node_0(host, port, parameters.get_as_int("read_timeout", _PATIENCE_S) or _PATIENCE_S)
    backend = _CheckedBackend(store, parameters.run_id)
    return _Rendezvous(create_handler(store, backend, parameters), address)


def _check_leads_here(host: str, address: str) -> None:
    """Refuse an endpoint that leads the other nodes to another interface of this node, where nobody will listen.

    Names of other kinds pass: of loopback, as a host's own name often is to itself, or of something in between.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    others = sorted(other for other in found & own if not is_loopback(other))
    if others and address not in found:
        raise InputError(
            f"--rdzv-endpoint leads to {others[0]} of node 0, but the nodes meet at {address}, the address of its "
            f"--interface; give --rdzv-endpoint {address}:PORT."
        )


def _store_of_node_0(host: str, port: int, patience_s: int) -> TCPStore:
    try:
        return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=patience_s))
    except (RuntimeError, ValueError) as error:  # torch's own errors are RuntimeErrors
        raise ConflictError(
            f"Node 0 could not be reached at {host}:{port} for {patience_s} s ({str(error).splitlines()[0]}). Start "
            "the job on node 0 within that time, check that --rdzv-endpoint is the address of its --interface and that "
            "no firewall is between the nodes; then send the job here again with --resume."
        ) from error


def listening_store(address: str, port: int) -> TCPStore:
    """A store whose server listens on one address of this machine. port: 0 takes a free one."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise ConflictError(
            f"Port {port} of {address}, where the nodes are to meet, cannot be used: {error.strerror}. "
            "Choose a port that is free on node 0 with --rdzv-endpoint."
        ) from error
    taken = listener.getsockname()[1]
    return TCPStore(address, taken, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


class _Rendezvous(RendezvousHandler):
    """After it, the ranks meet in a store of the launcher's, another one for each start of the ranks.

    In the store of their predecessors restarted ranks may find the addresses of these and fail to connect
    (pytorch/pytorch issue 135712).
    """

    def __init__(self, nodes: RendezvousHandler, address: str) -> None:
        """nodes: torch's. address: of this node, where the ranks' store listens when the node comes first."""
        self._nodes = nodes
        self._address = address
        self._ranks_store: TCPStore | None = None

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        met = self._nodes.next_rendezvous()
        self._ranks_store = listening_store(self._address, 0) if met.rank == 0 else None
        # Under a prefix, since torch has left there where a store of rank 0's would be.
        where = RendezvousStoreInfo.build(
            met.rank,
            PrefixStore("launcher", met.store),
            self._address,
            None if self._ranks_store is None else self._ranks_store.port,
        )
        return RendezvousInfo(met.store, met.rank, met.world_size, where)

    def get_backend(self) -> str:
        return NAME

    def is_closed(self) -> bool:
        return self._nodes.is_closed()

    def set_closed(self) -> None:
        self._nodes.set_closed()  # type: ignore[no-untyped-call]  # torch's

    def num_nodes_waiting(self) -> int:
        return self._nodes.num_nodes_waiting()

    def get_run_id(self) -> str:
        return self._nodes.get_run_id()

    def shutdown(self) -> bool:
        return self._nodes.shutdown()


class _CheckedBackend(C10dRendezvousBackend):
    """Refuses a state that torch must not unpickle."""

    def get_state(self) -> tuple[bytes, Any] | None:
        found = super().get_state()
        if found is not None:
            _check(found[0])
        return found

    def set_state(self, state: bytes, token: Any = None) -> tuple[bytes, Any, bool] | None:
        found = super().set_state(state, token)
        if found is not None:
            _check(found[0])
        return found


def _check(state: bytes) -> None:
    try:
        _StateUnpickler(BytesIO(state)).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise RendezvousStateError(
            f"What the nodes of the job share is not a rendezvous' state ({error}). Does something else use "
            "the port of --rdzv-endpoint?"
        ) from error


class _StateUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STATE_TYPES:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
