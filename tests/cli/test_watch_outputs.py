"""Where the records of `watch` go: a webhook, the live page, an MQTT broker."""

import base64
import http.client
import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.workflow.streaming.outputs import MAX_QUEUED, Webhook
from cli.workflow.streaming.page import MAX_CLIENTS, LivePage
from stal_data.errors import InputError
from tests.cli.live_case import live_services, opening, read, shots


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses one after another, the last one from there on."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        self.statuses, self.received = list(statuses), list[dict]()
        super().__init__(("127.0.0.1", 0), ReceiverHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/actions?key=secret"


class ReceiverHandler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(json.loads(body))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Location", "file:///etc/passwd")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiver]:
    with Receiver(*statuses) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def at_once(stop: threading.Event, seconds: float) -> None: ...


async def test_a_webhook_gets_the_lines_of_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with receiving(200) as server:
        webhook = Webhook(server.url, print)
        async with live_services() as services:
            await services.watch(opening(shots(0, 2.5)), webhook)
        webhook.close()
    records, _ = read(capsys)
    assert len(records) == 3
    assert server.received == records
    assert webhook.summary() == "webhook: 3 sent, 0 failed"


def test_a_webhook_is_tried_three_times_where_that_may_help() -> None:
    notes = list[str]()
    with receiving(503, 429, 204, 500, 500, 500, 404, 302, 200) as server:
        webhook = Webhook(server.url, notes.append, wait=at_once)
        for number in range(5):
            webhook.send({"number": number}, None)
        webhook.close()
    assert [record["number"] for record in server.received] == [0, 0, 0, 1, 1, 1, 2, 3, 4]
    assert webhook.summary() == "webhook: 2 sent, 3 failed"
    assert notes == ["the webhook at 127.0.0.1 fails (status 500); goes on without it"]


async def test_a_webhook_that_fails_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    webhook = Webhook(f"http://127.0.0.1:{port}/", print, wait=at_once)
    async with live_services() as services:
        await services.watch(opening(shots(0, 2.5)), webhook)
    webhook.close()
    assert webhook.summary() == "webhook: 0 sent, 3 failed"
    out, _ = capsys.readouterr()
    assert sum(line.startswith("{") for line in out.splitlines()) == 3


def test_a_webhook_that_hangs_holds_up_nobody_and_what_finds_no_place_has_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        webhook = Webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/", lambda _: None, wait=at_once)
        for number in range(MAX_QUEUED + 10):
            webhook.send({"number": number}, None)
        assert webhook.failed in (9, 10)  # one may be on its way


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/", "http:///path", "actions"])
def test_other_addresses_are_no_webhook(url: str) -> None:
    with pytest.raises(InputError, match="must be an address with http"):
        Webhook(url, print)


def ask(page: LivePage, path: str, host: str | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=60)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{page.port}"})
    return connection.getresponse()


@pytest.fixture
def page() -> Iterator[LivePage]:
    page = LivePage(0, lambda: {"p50": 1.5})
    try:
        yield page
    finally:
        page.close()


def test_the_page_runs_nothing_but_its_own_script(page: LivePage) -> None:
    answer = ask(page, "/")
    text = answer.read().decode()
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "http" not in text.replace("EventSource", "")
    assert ask(page, "/../etc/passwd").status == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1.evil.example:{port}"])
def test_the_page_is_for_the_names_of_loopback_only(page: LivePage, host: str) -> None:
    assert ask(page, "/", host.format(port=page.port)).status == 403
    assert ask(page, "/events", host.format(port=page.port)).status == 403
    assert ask(page, "/", f"localhost:{page.port}").status == 200


async def test_events_show_the_picture_and_its_people(page: LivePage, capsys: pytest.CaptureFixture[str]) -> None:
    async with live_services() as services:
        await services.watch(opening(shots(0, 0.5)), page)
    (record,), _ = read(capsys)
    with urllib.request.urlopen(f"{page.address}events") as events:
        event = json.loads(events.readline().removeprefix(b"data: "))
    assert base64.b64decode(event.pop("picture")).startswith(b"\xff\xd8")
    assert event == record | {"lags": {"p50": 1.5}}


def test_more_clients_than_places_are_turned_away(page: LivePage) -> None:
    page.send({"number": 1}, None)
    events = [ask(page, "/events") for _ in range(MAX_CLIENTS)]
    assert all(event.readline().startswith(b"data: ") for event in events)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(page, "/")


def test_records_go_to_an_mqtt_broker() -> None:
    """A broker that answers as MQTT 3.1.1 has it: CONNACK to CONNECT, PUBACK to PUBLISH."""
    mqtt = pytest.importorskip("cli.workflow.streaming.mqtt", exc_type=ImportError)
    got = list[tuple[str, dict]]()

    def packet(file) -> tuple[int, bytes]:
        kind, length, shift = file.read(1)[0], 0, 0
        while (byte := file.read(1)[0]) & 0x80:
            length, shift = length | (byte & 0x7F) << shift, shift + 7
        return kind, file.read(length | byte << shift)

    def serve(server: socket.socket) -> None:
        with server.accept()[0] as connection, connection.makefile("rb") as file:
            assert packet(file)[0] == 0x10
            connection.sendall(b"\x20\x02\x00\x00")
            while (found := packet(file))[0] & 0xF0 == 0x30:
                size = int.from_bytes(found[1][:2])
                got.append((found[1][2 : 2 + size].decode(), json.loads(found[1][4 + size :])))
                connection.sendall(b"\x40\x02" + found[1][2 + size : 4 + size])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        broker = mqtt.Mqtt(f"mqtt://127.0.0.1:{server.getsockname()[1]}/street/actions", lambda _: None)
        for number in range(3):
            broker.send({"number": number}, None)
        broker.close()
        thread.join()
    assert got == [("street/actions", {"number": number}) for number in range(3)]
    assert broker.summary() == "MQTT: 3 sent, 0 failed"
