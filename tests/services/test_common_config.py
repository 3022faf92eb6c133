"""Which listening and connecting set-ups are refused, and what the refusal says."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from grpc._cython import cygrpc

from cli.ui.options import client_options, server_options
from stal_data.errors import InputError, NotFoundError
from stal_data.hosts import is_loopback
from svc_common.client import RetryPolicy
from svc_common.config import ClientConfig, ServerConfig, join_address, read_tokens, split_address
from svc_common.options import channel_options
from svc_common.options import server_options as grpc_server_options


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org", ""])
def test_non_loopback_without_tls_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="--tls-cert and --tls-key"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, insecure=True).host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert is_loopback(host)
    assert ServerConfig(host=host).host == host


def test_half_a_key_pair_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.touch()
    with pytest.raises(InputError, match="go together"):
        ServerConfig(tls_cert=file)
    with pytest.raises(InputError, match="go together"):
        ClientConfig(address="h:1", tls_key=file)
    with pytest.raises(InputError, match="--tls-ca"):
        ServerConfig(tls_ca=file)
    with pytest.raises(InputError, match="--tls-ca"):
        ClientConfig(address="h:1", tls_cert=file, tls_key=file)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"--token-file '.*nope' is not a file"):
        ServerConfig(token_file=tmp_path / "nope")


@pytest.mark.parametrize("address", ["host", "host:", ":50051", "host:0", "host:70000", "host:http"])
def test_bad_addresses_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="must be HOST:PORT"):
        ClientConfig(address=address)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("http://127.0.0.1:50051", "without a scheme and a path: 127.0.0.1:50051."),
        ("https://gpu1:50051/", "without a scheme and a path: gpu1:50051."),
        ("ipv4:127.0.0.1:50051", "without a scheme and a path: 127.0.0.1:50051."),
        ("gpu1:50051/path", "without a scheme and a path: gpu1:50051."),
        ("::1:50051", "and an IPv6 address is in brackets: [::1]:50051."),
        ("2001:db8::7:50051", "and an IPv6 address is in brackets: [2001:db8::7]:50051."),
        ("unix:/run/stal.sock", "e.g."),
        ("[gpu1]:50051", "e.g."),
        ("user@gpu1:50051", "e.g."),
        ("127.1:50051", "e.g."),
        ("2130706433:50051", "e.g."),
        ("0x7f000001:50051", "e.g."),
        ("256.0.0.1:50051", "e.g."),
        ("gpu 1:50051", "e.g."),
        ("gpu1:\uff15\uff10\uff10\uff15\uff11", "e.g."),
        ("-gpu1:50051", "e.g."),
        ("grün:50051", "e.g."),
        ("gpu1:50051\n", "e.g."),
        ("x" * 300 + ":1", "e.g."),
    ],
)
@pytest.mark.parametrize("prefix", ["", "dns:///"])
def test_what_is_no_address_is_refused_as_such(prefix: str, address: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        ClientConfig(address=prefix + address)
    assert f"Address '{address}' must be HOST:PORT with a port from 1 to 65535, {hint}" in str(caught.value)


@pytest.mark.parametrize("host", ["http://127.0.0.1", "127.0.0.1:50051", "127.1", "a b", "unix:/run/x"])
@pytest.mark.parametrize("option", ["host", "metrics_host"])
def test_a_service_listens_at_a_name_or_an_address(option: str, host: str) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} '{host}' must be a name or an address alone"):
        ServerConfig(**{option: host}, insecure=True)


def test_a_certificates_name_has_neither_scheme_nor_port() -> None:
    with pytest.raises(InputError, match="--server-name 'https://gpu1:50051' must be a name or an address alone"):
        ClientConfig(address="127.0.0.1:1", server_name="https://gpu1:50051")


@pytest.mark.parametrize("host", ["LocalHost", "localhost.", "[::ffff:127.0.0.1]"])
def test_other_spellings_of_this_machine_need_no_tls(host: str) -> None:
    assert ClientConfig(address=f"{host}:50051").tls_ca is None


def test_addresses_round_trip() -> None:
    assert split_address(join_address("::1", 5)) == ("[::1]", 5)
    assert split_address(join_address("host", 65535)) == ("host", 65535)


@pytest.mark.parametrize(
    "address", ["example.org:50051", "192.168.0.7:50051", "[2001:db8::1]:50051", "dns:///name:50051"]
)
def test_plain_text_does_not_leave_the_machine(tmp_path: Path, address: str) -> None:
    token = tmp_path / "token"
    token.write_text("s" * 32)
    for options in ({}, {"token_file": token}):
        with pytest.raises(InputError, match=r"plain text\. Give --tls-ca, or .* --insecure"):
            ClientConfig(address=address, **options)
        assert ClientConfig(address=address, insecure=True, **options).tls_ca is None
        for own in ("127.0.0.1:50051", "[::1]:50051", "dns:///localhost:50051"):
            assert ClientConfig(address=own, **options).tls_ca is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "example.org"])
def test_other_machines_need_a_token_or_a_certificate_with_tls_too(tmp_path: Path, host: str) -> None:
    file = tmp_path / "file"
    file.touch()
    tls = {"tls_cert": file, "tls_key": file}
    with pytest.raises(InputError, match=r"--token-file, or --tls-ca for client certificates, or .* --insecure"):
        ServerConfig(host=host, **tls)
    for options in ({"token_file": file}, {"tls_ca": file}, {"insecure": True}):
        assert ServerConfig(host=host, **tls, **options).host == host
    assert ServerConfig(**tls).host == "127.0.0.1"


@pytest.mark.parametrize("text", ["", "short", "with space in the middle of it", "ümlauts-are-not-ascii"])
def test_weak_tokens_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(InputError, match="at least 16"):
        read_tokens(tmp_path / "token")


def test_message_size_is_set_in_both_directions_on_both_sides() -> None:
    for options in (
        dict(grpc_server_options(ServerConfig(max_message_bytes=5000))),
        dict(channel_options(ClientConfig(address="127.0.0.1:1", max_message_bytes=5000))),
    ):
        assert options["grpc.max_send_message_length"] == options["grpc.max_receive_message_length"] == 5000


def test_grpc_knows_every_channel_argument() -> None:
    """It ignores others without a word, and a wrong name once let idle connections end with `too_many_pings`."""
    library = Path(cygrpc.__file__).read_bytes()
    for options in (grpc_server_options(ServerConfig()), channel_options(ClientConfig(address="127.0.0.1:1"))):
        for name, _ in options:
            assert name.encode() + b"\0" in library, name


def test_client_pings_no_more_often_than_the_server_accepts() -> None:
    pings = dict(channel_options(ClientConfig(address="127.0.0.1:1")))["grpc.keepalive_time_ms"]
    assert pings > dict(grpc_server_options(ServerConfig()))["grpc.http2.min_ping_interval_without_data_ms"]


def test_retry_delays_grow_and_end() -> None:
    delays = list(RetryPolicy(retries=6, first_s=1, max_s=8).delays())
    assert len(delays) == 6
    assert all(low / 2 <= delay <= low for delay, low in zip(delays, (1, 2, 4, 8, 8, 8), strict=True))


def test_command_options_become_configs() -> None:
    seen: list[object] = []

    @click.command()
    @click.option("--own")
    @server_options(default_port=7)
    def serve(server: ServerConfig, own: str) -> None:
        """Serve it."""
        seen.extend((server, own))

    @click.command()
    @client_options("detector", required=False)
    def call(client: ClientConfig | None) -> None:
        seen.append(client)

    runner = CliRunner()
    assert runner.invoke(serve, ["--own", "x", "--max-message-mb", "3", "--grace-s", "2"]).exit_code == 0
    assert seen == [ServerConfig(port=7, max_message_bytes=3 << 20, grace_s=2), "x"]
    assert "Serve it." in runner.invoke(serve, ["--help"]).output
    assert runner.invoke(call, []).exit_code == 0
    assert runner.invoke(call, ["--detector", "127.0.0.1:5"]).exit_code == 0
    assert seen[2:] == [None, ClientConfig(address="127.0.0.1:5", wait_s=30)]
    assert runner.invoke(serve, ["--port", "70000"]).exit_code == 2
