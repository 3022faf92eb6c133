"""gRPC channel arguments. Sizes are set in both directions on both sides, else the default of 4 MB receives cuts in."""

from stal_data.hosts import is_loopback
from svc_common.config import ClientConfig, ServerConfig

Options = list[tuple[str, int | str]]


def _message_size(limit_bytes: int) -> Options:
    return [("grpc.max_send_message_length", limit_bytes), ("grpc.max_receive_message_length", limit_bytes)]


def server_options(config: ServerConfig) -> Options:
    """Arguments for grpc.aio.server."""
    return [
        *_message_size(config.max_message_bytes),
        # Without this two services would share one port silently, each getting some of the calls.
        ("grpc.so_reuseport", 0),
        # A client pings each 30 s; the server's default of 300 s would answer with too_many_pings and hang up.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Finds clients that are gone without closing their connection, which then frees their calls.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]


def channel_options(config: ClientConfig) -> Options:
    """Arguments for a client channel."""
    return [
        *_message_size(config.max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # The clients of this project retry by themselves: they know which frames are still unanswered.
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # 127.0.0.1 would be the proxy's own machine.
        *([("grpc.enable_http_proxy", 0)] if is_loopback(config.endpoint[0]) else []),
        *([("grpc.ssl_target_name_override", config.server_name)] if config.server_name is not None else []),
    ]
