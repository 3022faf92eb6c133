"""Several replicas behind one client: no frame lost or doubled, whoever comes and goes."""

import asyncio
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest

from stal_data.errors import ConflictError, InputError, NotFoundError
from svc_common.addresses import resolve_name, split_list
from svc_common.client import RetryPolicy
from svc_common.config import ClientConfig
from svc_common.errors import AccessError, DeadlineError, ServiceUnavailableError
from tests.detector.replica import Replica, ReplicaService, client_of, detected, once_each, replicas, until
from tests.services.certificates import make_authority, make_certificate

COUNT = 60


class Names:
    """A name whose addresses a test changes."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses

    async def __call__(self, name: str, port: int) -> tuple[str, ...]:
        if not self.addresses:
            raise NotFoundError(f"The name '{name}' does not resolve (test).")
        return tuple(self.addresses)


async def test_all_replicas_work_and_each_frame_is_answered_once() -> None:
    async with replicas(ReplicaService(), ReplicaService(), ReplicaService()) as made:
        client = client_of(*(replica.address for replica in made))
        assert (await client.info()).name == "person"
        assert sorted(await detected(client, COUNT)) == once_each(COUNT)
        answered = [replica.service.answered for replica in made]
        assert all(answered), [len(names) for names in answered]
        assert sorted(chain.from_iterable(answered)) == once_each(COUNT)


async def test_a_slow_replica_holds_no_more_than_its_window() -> None:
    async with replicas(ReplicaService(), ReplicaService()) as (slow, quick):
        slow.service.answering.clear()
        quick.service.answering.clear()
        client = client_of(slow.address, quick.address)
        detecting = asyncio.create_task(detected(client, COUNT))
        await until(lambda: slow.service.taken and quick.service.taken)
        quick.service.answering.set()
        await until(lambda: len(quick.service.answered) == COUNT - 4)
        slow.service.answering.set()
        assert sorted(await detecting) == once_each(COUNT)
        assert len(slow.service.answered) == 4


async def test_a_replica_that_breaks_off_leaves_its_frames_to_the_others_and_is_used_when_it_returns() -> None:
    async with (
        replicas(ReplicaService(), ReplicaService()) as (first, second),
    ):
        client = client_of(first.address, second.address)
        first.service.answering.clear()
        detecting = asyncio.create_task(detected(client, 200))
        await until(lambda: first.service.taken and second.service.answered)
        await first.stop()
        lost = first.service.taken[0]
        await until(lambda: lost in second.service.answered)
        second.service.answering.clear()
        first.service.answering.set()
        before = len(first.service.answered)
        await first.start()
        await until(lambda: len(first.service.answered) > before + 4)
        second.service.answering.set()
        answers = await detecting
    assert sorted(answers) == once_each(200)


async def test_a_draining_replica_answers_what_it_has_and_gets_no_more_frames() -> None:
    async with (
        replicas(ReplicaService(), ReplicaService()) as (first, second),
    ):
        client = client_of(first.address, second.address)
        first.service.answering.clear()
        detecting = asyncio.create_task(detected(client, COUNT))
        await until(lambda: first.service.taken and second.service.answered)
        stopping = asyncio.create_task(first.stop(300))
        await until(lambda: len(second.service.answered) >= COUNT - 4)
        first.service.answering.set()
        async with asyncio.timeout(120):  # not the 300 s of grace
            await stopping
        assert sorted(await detecting) == once_each(COUNT)
    assert len(first.service.taken) <= 4


async def test_a_replica_that_was_not_there_at_first_joins() -> None:
    async with replicas(ReplicaService()) as (first,):
        late = Replica(ReplicaService())
        await late.start()
        await late.stop()  # its port is known and nobody is there
        try:
            client = client_of(first.address, late.address)
            assert (await client.info()).name == "person"
            first.service.answering.clear()
            detecting = asyncio.create_task(detected(client, COUNT))
            await until(lambda: first.service.taken)
            await late.start()
            await until(lambda: len(late.service.answered) >= COUNT - 4)
            first.service.answering.set()
            assert sorted(await detecting) == once_each(COUNT)
        finally:
            await late.stop()


async def test_when_all_are_gone_each_is_named_with_its_reason() -> None:
    async with replicas(ReplicaService(), ReplicaService()) as (first, second):
        client = client_of(first.address, second.address)
        first.service.answering.clear()
        second.service.answering.clear()
        detecting = asyncio.create_task(detected(client, COUNT))
        await until(lambda: first.service.taken and second.service.taken)
        await first.stop()
        await second.stop()
        with pytest.raises(ServiceUnavailableError) as caught:
            await detecting
        with pytest.raises(ServiceUnavailableError, match="None of 2 detector replicas can be used"):
            await client_of(first.address, second.address).info()
    for replica in (first, second):
        assert f"\n  {replica.address}: " in str(caught.value)
        assert f"stal-cli serve detector --port {replica.port}" in str(caught.value)


async def test_a_replica_that_hangs_loses_its_frames_to_the_others() -> None:
    async with replicas(ReplicaService(), ReplicaService()) as (hanging, second):
        hanging.service.answering.clear()
        client = client_of(hanging.address, second.address, timeout_s=5.0)
        assert sorted(await detected(client, COUNT)) == once_each(COUNT)
        assert set(hanging.service.taken) <= set(second.service.answered)
        alone = RetryPolicy(retries=1, first_s=0.01)
        client = client_of(hanging.address, timeout_s=1.0, retry=alone)
        with pytest.raises(DeadlineError, match=r"no answer for 1 s"):
            await detected(client, COUNT)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("weights", "sha256:2", "weights sha256:2 instead of sha256:1"),
        ("confidence", 0.25, r"confidence 0\.25 instead of 0\.5"),
        ("overlap", 0.9, r"overlap 0\.9 instead of 0\.0"),
        ("image_height", 180, "height 180 instead of 90"),
        ("classes", ["dog"], "classes dog instead of"),
    ],
)
async def test_replicas_with_different_models_are_refused(field: str, value: object, text: str) -> None:
    async with (
        replicas(ReplicaService(), ReplicaService(**{field: value})) as (first, second),
    ):
        client = client_of(first.address, second.address)
        with pytest.raises(ConflictError, match=f"{second.address} runs another model .*{text}"):
            await client.info()


async def test_a_replica_that_refuses_is_an_error_that_names_it() -> None:
    refusal = ConflictError("The client speaks API version 9.0, the service 1.0.")
    async with (
        replicas(ReplicaService(), ReplicaService(error=refusal)) as (first, second),
    ):
        client = client_of(first.address, second.address)
        with pytest.raises(ConflictError, match=rf"{second.address}: The client speaks API version 9\.0"):
            await client.info()


async def test_a_replica_that_returns_with_another_model_is_not_used_again(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        replicas(ReplicaService(), ReplicaService()) as (first, second),
    ):
        client = client_of(first.address, second.address)
        await client.info()
        second.service.answering.clear()
        detecting = asyncio.create_task(detected(client, 100))
        await until(lambda: second.service.taken and first.service.answered)
        first.service.answering.clear()
        await second.stop()
        second.service.model["weights"] = "sha256:other"
        second.service.answering.set()
        second.service.taken.clear()
        await second.start()
        await until(lambda: "weights sha256:other instead of sha256:1" in caplog.text)
        first.service.answering.set()
        assert sorted(await detecting) == once_each(100)
    assert not second.service.taken


async def test_a_single_service_must_come_back_with_the_model_that_it_had() -> None:
    async with replicas(ReplicaService()) as (only,):
        client = client_of(only.address)
        only.service.answering.clear()
        detecting = asyncio.create_task(detected(client, 20))
        await until(lambda: only.service.taken)
        await only.stop()
        only.service.model["confidence"] = 0.1
        only.service.answering.set()
        await only.start()
        with pytest.raises(ConflictError, match=r"than it ran before: confidence 0\.1 instead of 0\.5"):
            await detecting


async def test_addresses_of_a_name_come_and_go(caplog: pytest.LogCaptureFixture) -> None:
    async with replicas(ReplicaService(), ReplicaService()) as (first, second):
        names = Names(first.address)
        client = client_of("dns:///detector:50051", insecure=True, resolve=names)
        assert (await client.info()).name == "person"
        first.service.answering.clear()
        detecting = asyncio.create_task(detected(client, 200))
        await until(lambda: first.service.taken)
        names.addresses = (first.address, second.address)
        await until(lambda: second.service.answered)
        second.service.answering.clear()
        names.addresses = (second.address,)
        await until(lambda: f"{first.address} is not among the replicas any more" in caplog.text)
        first.service.answering.set()
        await until(lambda: len(first.service.answered) == 4)  # what it had; it gets no more
        second.service.answering.set()
        assert sorted(await detecting) == once_each(200)
    assert len(first.service.taken) == 4


async def test_a_replica_that_has_left_is_used_again_when_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    async with replicas(ReplicaService(), ReplicaService()) as (leaving, staying):
        names = Names(leaving.address, staying.address)
        client = client_of("dns:///detector:50051", insecure=True, resolve=names, resolve_every_s=0.01)
        staying.service.answering.clear()
        leaving.service.answering.clear()
        detecting = asyncio.create_task(detected(client, COUNT))
        await until(lambda: leaving.service.taken and staying.service.taken)
        names.addresses = (staying.address,)
        await until(lambda: f"{leaving.address} is not among the replicas any more" in caplog.text)
        leaving.service.answering.set()  # what it has accepted
        await until(lambda: leaving.service.streams == 0)
        answered = len(leaving.service.answered)
        names.addresses = (leaving.address, staying.address)
        await until(lambda: len(leaving.service.answered) > answered)
        staying.service.answering.set()
        assert sorted(await detecting) == once_each(COUNT)
    assert leaving.service.streams == staying.service.streams == 0


async def test_a_name_that_fails_to_resolve_for_a_moment_loses_nobody() -> None:
    async with replicas(ReplicaService()) as (only,):
        names = Names(only.address)
        client = client_of("dns:///detector:50051", insecure=True, resolve=names, resolve_every_s=0.01)
        only.service.answering.clear()
        detecting = asyncio.create_task(detected(client, COUNT))
        await until(lambda: only.service.taken)
        names.addresses = ()
        only.service.answering.set()
        assert sorted(await detecting) == once_each(COUNT)


async def test_a_name_without_addresses_is_named() -> None:
    client = client_of("dns:///detector:50051", insecure=True, resolve=Names())
    for call in (client.info(), detected(client, 3)):
        with pytest.raises(NotFoundError, match="'detector' does not resolve"):
            await call


async def test_localhost_resolves_to_this_machine() -> None:
    assert await resolve_name("localhost", 5) == ("127.0.0.1:5",)
    with pytest.raises(NotFoundError, match=r"'name\.invalid' does not resolve"):
        await resolve_name("name.invalid", 5)
    async with replicas(ReplicaService()) as (only,):
        client = client_of(f"dns:///localhost:{only.port}")
        assert sorted(await detected(client, COUNT)) == once_each(COUNT)


async def test_each_replica_must_show_a_certificate_for_its_name(tmp_path: Path) -> None:
    authority = make_authority(tmp_path, "ca")
    certificate, key = make_certificate(authority, "server")  # for 127.0.0.1 and localhost
    async with replicas(ReplicaService(), ReplicaService(), tls_cert=certificate, tls_key=key) as (first, second):
        names = Names(first.address, second.address)
        trusted = {"tls_ca": authority.certificate, "resolve": names}
        client = client_of(first.address, "dns:///localhost:1", **trusted)
        assert sorted(await detected(client, COUNT)) == once_each(COUNT)
        client = client_of("dns:///another.example:1", **trusted)
        with pytest.raises(ServiceUnavailableError) as caught:
            await client.info()
    for replica in (first, second):
        assert f"\n  {replica.address}: " in str(caught.value)


async def test_one_service_runs_a_split_by_itself() -> None:
    client = client_of("a:1", "b:2", insecure=True)
    with pytest.raises(InputError, match="give one address instead of a:1, b:2"):
        [event async for event in client.propose("data", "train")]


def test_lists_of_addresses(tmp_path: Path) -> None:
    assert split_list("a:1, dns:///b:2  c:3") == ("a:1", "dns:///b:2", "c:3")
    with pytest.raises(InputError, match="'a:1' occurs twice"):
        split_list("a:1,b:1,a:1")
    with pytest.raises(InputError, match="names no address"):
        split_list(" , ")
    assert ClientConfig(address="dns:///name:5", insecure=True).endpoint == ("name", 5)
    with pytest.raises(InputError, match="HOST:PORT"):
        ClientConfig(address="dns:///name", insecure=True)
    plain = ClientConfig(address="dns:///name:5", insecure=True).at("10.0.0.1:5")
    assert (plain.address, plain.server_name) == ("10.0.0.1:5", None)
    authority = tmp_path / "ca.pem"
    authority.touch()
    replica = ClientConfig(address="dns:///name:5", tls_ca=authority).at("10.0.0.1:5")
    assert (replica.address, replica.server_name) == ("10.0.0.1:5", "name")
    given = ClientConfig(address="dns:///name:5", tls_ca=authority, server_name="other").at("10.0.0.1:5")
    assert given.server_name == "other"


async def test_a_token_that_is_refused_says_where() -> None:
    async with (
        replicas(ReplicaService(error=AccessError("the bearer token is missing or wrong"))) as (only,),
    ):
        client = client_of(only.address)
        with pytest.raises(AccessError, match=only.address):
            await detected(client, 3)
