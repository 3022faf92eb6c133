"""`stal-cli infer`: how it reaches a running detector."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.proposal_store import open_proposals
from cache.store import Store
from cli.main import root
from cli.workflow.stages import StageError
from stal_data.errors import InputError
from svc_common.errors import AccessError
from tests.data.videos import constant, write_video
from tests.detector.replica import ReplicaService
from tests.hostile import hostile_folder
from tests.services.certificates import make_authority, make_certificate
from tests.services.echo import in_a_thread


def infer(folder: Path, *options: str) -> None:
    """Backbone weights are missing, so it gets as far as precompute."""
    video = folder / "street.mp4"
    if not video.exists():
        write_video(video, constant(25, 75))
    label_map = folder / "store" / "runs" / "first" / "label_map.pbtxt"
    label_map.parent.mkdir(parents=True, exist_ok=True)
    label_map.write_text('label { name: "walk" label_id: 1 }\n')
    words = ["infer", str(video), "--store", str(folder / "store"), "--run", "first", "--slowfast", "gone.safetensors"]
    words += ["--vit", "gone.safetensors", "--output", str(folder / "out"), *options]
    result = CliRunner().invoke(root, words)
    assert result.exception is not None
    raise result.exception


def test_the_detector_is_reached_with_certificate_name_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile_folder(tmp_path))  # the stages are processes of their own
    authority = make_authority(tmp_path / "tls", "ca")
    certificate, key = make_certificate(authority, "server", valid_for="DNS:detector.stal.svc")
    token = tmp_path / "token"
    token.write_text("t" * 20)
    service = ReplicaService()
    with in_a_thread(service, tls_cert=certificate, tls_key=key, token_file=token) as port:
        detector = ("--detector", f"127.0.0.1:{port}")
        reach = ("--tls-ca", str(authority.certificate), "--server-name", "detector.stal.svc")
        with pytest.raises(AccessError, match="UNAUTHENTICATED"):
            infer(tmp_path, *detector, *reach)
        with pytest.raises(StageError, match="stage precompute failed"):
            infer(tmp_path, *detector, *reach, "--token-file", str(token))
    assert len(service.answered) > 0
    store = Store.open(tmp_path / "store")
    (dataset,) = (path.name for path in (store.root / "proposals").iterdir())
    assert len(open_proposals(store, dataset, "all").key_frames) == len(service.answered)


def test_plain_text_to_another_machine_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'gpu1:50051' is another machine.*--tls-ca.*--insecure"):
        infer(tmp_path, "--detector", "127.0.0.1:50051,gpu1:50051")
    assert not (tmp_path / "out").exists()
