"""What a service logs and counts: ids that tie the lines of a call and a job together, and the names in `deploy/`."""

import asyncio
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from recognizer_svc.runs.events import last_step
from svc_common.logs import REQUEST_ID_HEADER, checked_request_id, log_context, log_fields, outgoing_request_id
from tests.services.conftest import Trained, metrics_page
from tests.services.echo import calling, serving

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "stal.json"
ADAPTER = DASHBOARD.parents[1] / "prometheus" / "adapter.yaml"


def _names(page: str) -> set[str]:
    """All names that a query may use, those without samples yet included."""
    families = re.findall(r"^# TYPE (\S+) (\S+)", page, re.MULTILINE)
    parts = {"histogram": ("_bucket", "_count", "_sum")}
    return {name + end for name, kind in families for end in ("", *parts.get(kind, ()))}


def _lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def test_every_line_of_the_log_is_json(trained: Trained) -> None:
    others = [line for line in trained.log.splitlines() if not line.startswith("{")]
    assert [line for line in others if " ready on " not in line] == []
    assert all({"time", "level", "service", "logger", "message"} <= line.keys() for line in _lines(trained.log))


def test_call_and_job_carry_the_same_request_id(trained: Trained) -> None:
    lines = _lines(trained.log)
    ours = outgoing_request_id()
    started = next(line for line in lines if line["message"] == "job started")
    ended = next(line for line in lines if line["message"] == "job ended")
    call = next(line for line in lines if line.get("method", "").endswith("/Train") and line["code"] == "OK")
    assert started["run_id"] == ended["run_id"] == "trained"
    assert {started["request_id"], ended["request_id"], call["request_id"]} == {ours}
    assert ended["status"] == "succeeded"
    assert call["code"] == "OK"
    assert call["seconds"] > 0


def test_progress_of_a_running_job_is_exported_and_gone_at_its_end(trained: Trained) -> None:
    during, after = trained.during, trained.after
    progress = re.search(r'^stal_job_progress_ratio\{run_id="trained"\} (\S+)$', during, re.MULTILINE)
    assert progress is not None
    assert 0 < float(progress[1]) <= 1
    assert 'stal_jobs{status="running"} 1.0' in during
    assert "stal_job_progress_ratio{" not in after
    assert 'stal_jobs_finished_total{status="succeeded"} 1.0' in after


async def test_dashboard_and_adapter_name_only_metrics_that_services_export(
    trained: Trained,
) -> None:
    from detector_svc.service.micro_batcher import BatcherMetrics

    exported = _names(trained.during)
    async with serving(metrics_port=0) as (server, _):
        BatcherMetrics(server._metrics.registry)
        exported |= _names(await asyncio.to_thread(metrics_page, server.metrics_port))
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries.extend(rule["seriesQuery"] for rule in yaml.safe_load(ADAPTER.read_text())["rules"]["custom"])
    named = {name for query in queries for name in re.findall(r"\b(?:stal|process)_\w+", query)}
    assert len(named) > 15
    assert named <= exported


async def test_the_id_a_client_sends_is_logged_and_a_forged_one_is_not(caplog: pytest.LogCaptureFixture) -> None:
    from protos.generated import detector_pb2
    from svc_common.logs import _JsonFormatter

    caplog.handler.setFormatter(_JsonFormatter("echo"))
    caplog.set_level("INFO", logger="svc_common.interceptors")
    async with serving() as (server, _), calling(server.port) as stub:
        for sent in ("pipeline-7", "two words"):
            await stub.GetInfo(detector_pb2.GetInfoRequest(), metadata=((REQUEST_ID_HEADER, sent),))
    logged = [json.loads(line)["request_id"] for line in caplog.text.splitlines() if "call finished" in line]
    assert logged[0] == "pipeline-7"
    assert re.fullmatch(r"[0-9a-f]{16}", logged[1])


async def test_fields_follow_tasks_and_to_thread_and_no_other_thread() -> None:
    async def in_a_task() -> Mapping[str, str]:
        return log_fields()

    with log_context(run_id="one"), ThreadPoolExecutor(1) as executor:
        assert await asyncio.create_task(in_a_task()) == {"run_id": "one"}
        assert await asyncio.to_thread(log_fields) == {"run_id": "one"}
        assert await asyncio.get_running_loop().run_in_executor(executor, log_fields) == {}
    assert log_fields() == {}


@pytest.mark.parametrize("sent", ["", "a\nb", "x" * 65, 'a"b'])
def test_an_id_that_could_forge_a_line_is_replaced(sent: str) -> None:
    assert checked_request_id(sent) != sent


def test_the_last_step_is_found_behind_a_torn_line(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    assert last_step(events, offset=0) is None
    step = {
        **{"seq": 1, "time": 0.0, "type": "step", "epoch": 2, "epochs": 4, "step": 5, "steps_per_epoch": 10},
        **{"loss": 0.5, "actors_per_s": 7.0, "data_s": 1.0, "compute_s": 3.0},
    }
    events.write_text(json.dumps(step) + "\n" + json.dumps({"type": "log"}) + "\n" + '{"type": "step", "ep')
    found = last_step(events, offset=0)
    assert found is not None
    assert (found.progress, found.loss, found.actors_per_s, found.data_wait) == (0.375, 0.5, 7.0, 0.25)
    assert last_step(events, offset=events.stat().st_size) is None
    with events.open("a") as file:  # the resumed run begins a new line
        file.write("\n" + json.dumps(step | {"loss": None}) + "\n" + '{"type": "step"}\n')
    assert last_step(events, offset=0) == found
