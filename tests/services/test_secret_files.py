"""Token and key files that every user of the machine can read bring a warning, on both sides."""

from pathlib import Path

import pytest

from svc_common.client import open_channel
from svc_common.config import ClientConfig
from tests.services.certificates import make_authority, make_certificate
from tests.services.echo import serving


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
async def test_secrets_that_all_can_read_are_named(
    mode: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = make_authority(tmp_path, "ca")
    certificate, key = make_certificate(authority, "server")
    token = tmp_path / "token"
    token.write_text("t" * 20)
    for file in (key, token):
        file.chmod(mode)
    async with serving(token_file=token, tls_cert=certificate, tls_key=key):
        pass
    (used := tmp_path / "client-token").write_text("t" * 20)
    used.chmod(mode)
    await open_channel(ClientConfig(address="127.0.0.1:1", token_file=used)).close()
    for option, file in (("--tls-key", key), ("--token-file", token), ("--token-file", used)):
        assert (f"{option} '{file}' can be read by every user" in caplog.text) == warned
