"""How the nodes of a job meet: where their stores listen, and what they take from them."""

import base64
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters, RendezvousStateError

from recognizer_svc.training.rendezvous import NAME, create, listening_store
from stal_data.errors import ConflictError, InputError

LOOPBACK = "127.0.0.1"


@pytest.fixture(autouse=True)
def as_the_launcher_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")


def node(port: int, *, is_host: bool, nodes: int = 2, host: str = LOOPBACK, **settings: str) -> RendezvousHandler:
    endpoint = f"{host}:{port}"
    settings["is_host"] = str(is_host).lower()
    return create(RendezvousParameters(NAME, endpoint, "run", nodes, nodes, local_addr=LOOPBACK, **settings))


def free_port() -> int:
    return int(listening_store(LOOPBACK, 0).port)


def listeners() -> set[tuple[str, int]]:
    """Of this process, which other tests may have left some in."""
    connections = psutil.Process().net_connections("tcp")
    return {(*found.laddr,) for found in connections if found.status == psutil.CONN_LISTEN}


def test_nodes_listen_on_their_own_address_and_the_ranks_get_another_store_at_each_start() -> None:
    before, port = listeners(), free_port()
    pair = [node(port, is_host=True), node(port, is_host=False)]
    assert listeners() - before == {(LOOPBACK, port)}
    ports = []
    with ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            met = list(threads.map(lambda one: one.next_rendezvous(), pair))
            assert sorted(info.rank for info in met) == [0, 1]
            (where,) = {(info.bootstrap_store_info.master_addr, info.bootstrap_store_info.master_port) for info in met}
            assert listeners() - before == {(LOOPBACK, port), where}
            ports.append(where[1])
        list(threads.map(lambda one: one.shutdown(), pair))
    assert ports[0] != ports[1]


def test_a_lone_node_has_no_port_for_the_rendezvous() -> None:
    before = listeners()
    lone = node(0, is_host=True, nodes=1)
    assert listeners() == before
    assert lone.next_rendezvous().world_size == 1
    lone.shutdown()


class Touch:
    """Unpickled by torch it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.open, (str(self.path), os.O_CREAT)


def test_a_pickle_in_the_store_runs_no_code(tmp_path: Path) -> None:
    store = listening_store(LOOPBACK, 0)
    evil = pickle.dumps(Touch(tmp_path / "made"))
    store.set("torch.rendezvous.run", base64.b64encode(evil).decode())
    victim = node(store.port, is_host=False)
    with pytest.raises(RendezvousStateError, match=r"not a rendezvous' state \(it names posix.open\)"):
        victim.next_rendezvous()
    assert not (tmp_path / "made").exists()
    pickle.loads(evil)
    assert (tmp_path / "made").exists(), "else the test would see nothing"


def test_a_port_in_use_is_named() -> None:
    store = listening_store(LOOPBACK, 0)
    with pytest.raises(ConflictError, match=f"Port {store.port} of {LOOPBACK}, where the nodes are to meet"):
        node(store.port, is_host=True)


def test_a_node_0_that_does_not_come_is_named_with_the_way_out() -> None:
    port = free_port()
    with pytest.raises(
        ConflictError, match=rf"(?s)Node 0 could not be reached at {LOOPBACK}:{port} for 1 s .*--resume"
    ):
        node(port, is_host=False, read_timeout="1")


def test_the_other_nodes_look_for_node_0_for_a_minute() -> None:
    store = listening_store(LOOPBACK, 0)
    other = node(store.port, is_host=False)
    assert other._nodes._store.timeout == timedelta(seconds=60)


def test_an_endpoint_on_another_interface_of_node_0_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would listen there, and the other nodes would wait for a minute to say less."""
    ours = SimpleNamespace(address="192.0.2.7")  # as if this machine had it
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth7": [ours]})
    with pytest.raises(InputError, match=rf"leads to 192.0.2.7 of node 0, but the nodes meet at {LOOPBACK}"):
        node(29400, is_host=True, host="192.0.2.7")
