"""Between this package's types and the messages of protos/recognizer.proto."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from protos.generated import recognizer_pb2 as pb
from recognizer_svc.people import UNKNOWN, People
from recognizer_svc.precompute.request import FeatureRequest
from recognizer_svc.runs.events import Event
from recognizer_svc.runs.record import JobRecord, Launch
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.micro_batch import MAX_BOXES_AROUND
from recognizer_svc.scoring.queries import Prediction, PredictQuery, RecognizeQuery
from recognizer_svc.service.admission import Submission
from recognizer_svc.service.launch import default_backend, default_processes
from recognizer_svc.service.precompute_admission import PrecomputeSubmission
from recognizer_svc.training.recipe_sections import Layout
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame

if TYPE_CHECKING:
    from recognizer_svc.scoring.model_list import ModelInfo

_EVENTS = {field.name for field in pb.JobEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
_LAYOUTS: dict[int, Layout] = {
    pb.LAYOUT_UNSPECIFIED: "key_frames",
    pb.LAYOUT_KEY_FRAMES: "key_frames",
    pb.LAYOUT_ROWS: "rows",
}
_MAX_OVERRIDES = 1000
_MAX_RECIPE_CHARACTERS = 100_000  # of the recipe with its overrides; shipped ones have 1500 at most
MAX_BOXES_PER_CALL = 500  # of Recognize, to score and in each key frame around
_MAX_KEY_FRAMES_AROUND = 200


def to_submission(request: pb.TrainRequest) -> Submission:
    """Defaults filled in; the values are checked where they are used."""
    if len(request.overrides) > _MAX_OVERRIDES:
        raise InputError(
            f"{len(request.overrides)} overrides are more than {_MAX_OVERRIDES}; change the recipe instead."
        )
    length = len(request.recipe) + sum(map(len, request.overrides))
    if length > _MAX_RECIPE_CHARACTERS:
        raise InputError(
            f"The recipe and its overrides have {length} characters; at most {_MAX_RECIPE_CHARACTERS} are read."
        )
    launch = request.launch
    processes = launch.nproc_per_node or default_processes()
    return Submission(
        run_id=request.run_id,
        recipe=request.recipe,
        overrides=tuple(request.overrides),
        resume=request.resume,
        request_id=request.request_id,
        default_processes=not launch.nproc_per_node,
        launch=Launch(
            nproc_per_node=processes,
            backend=launch.backend or default_backend(processes),
            nnodes=launch.nnodes or 1,
            node_rank=launch.node_rank,
            rdzv_endpoint=launch.rdzv_endpoint,
            max_restarts=launch.max_restarts,
        ),
    )


def to_precompute(request: pb.PrecomputeRequest) -> PrecomputeSubmission:
    """Defaults filled in."""
    wanted = FeatureRequest(
        dataset=request.dataset,
        split=request.split,
        views=tuple(request.views) or FeatureRequest.views,
        dtype=request.dtype or FeatureRequest.dtype,
        statistics=tuple(request.statistics),
        autocast=request.autocast or FeatureRequest.autocast,
        compiled=request.compiled,
        batch_size=request.batch_size or FeatureRequest.batch_size,
        rows_per_shard=request.rows_per_shard or None,
    )
    return PrecomputeSubmission(run_id=request.job_id, request_id=request.request_id, wanted=wanted)


def from_job(record: JobRecord, run: RunDir) -> pb.Job:
    return pb.Job(
        run_id=record.run_id,
        status=pb.JobStatus.Value(f"JOB_STATUS_{record.status.name}"),
        message=record.message,
        attempt=record.attempt,
        launch=pb.Launch(**asdict(record.launch)),
        host=record.host,
        created_s=record.created_s,
        started_s=record.started_s,
        ended_s=record.ended_s,
        run_dir=str(run.root),
        kind=pb.JobKind.Value(f"JOB_KIND_{record.kind.name}"),
    )


def from_event(event: Event) -> pb.JobEvent:
    """An event of a later version keeps its number and loses what this version does not know."""
    message = pb.JobEvent(seq=event.seq, time_s=event.time_s)
    if event.type in _EVENTS:
        content = getattr(message, event.type)
        content.SetInParent()
        json_format.ParseDict(event.values, content, ignore_unknown_fields=True)
    return message


def to_predict_query(request: pb.PredictRequest) -> PredictQuery:
    source = request.WhichOneof("boxes")
    if source is None:
        raise InputError("boxes is not set; choose ground_truth or proposals.")
    if request.layout not in _LAYOUTS:
        raise InputError(f"layout is {request.layout}, which this version does not know; choose key_frames or rows.")
    return PredictQuery(
        run_id=request.run_id,
        checkpoint=request.checkpoint,
        dataset=request.dataset,
        split=request.split,
        proposals=request.proposals.name if source == "proposals" else None,
        feature_set=request.feature_set,
        layout=_LAYOUTS[request.layout],
        flip_average=request.flip_average,
        fuse_confidence=request.proposals.fuse_confidence,
    )


def to_recognize_query(request: pb.RecognizeRequest) -> RecognizeQuery:
    if not 0 < len(request.boxes) <= MAX_BOXES_PER_CALL:
        raise InputError(f"{len(request.boxes)} boxes were given, but must be 1 to {MAX_BOXES_PER_CALL}.")
    key, people = KeyFrame(request.video, request.time_ms), to_people(request.boxes)
    return RecognizeQuery(
        run_id=request.run_id,
        checkpoint=request.checkpoint,
        dataset=request.dataset,
        split=request.split,
        key=key,
        boxes_N4=people.boxes_N4,
        feature_set=request.feature_set,
        persons_N=people.persons_N,
        neighbours=_neighbours(key, request.neighbours),
    )


def to_people(boxes: Sequence[pb.Box]) -> People:
    persons = [box.person if box.HasField("person") else UNKNOWN for box in boxes]
    if bad := [box.person for box in boxes if box.HasField("person") and box.person < 0]:
        raise InputError(f"person is {bad[0]}, but must be 0 or more; leave it out where it is unknown.")
    corners = [(box.x1, box.y1, box.x2, box.y2) for box in boxes]
    return People.of(np.array(corners, dtype=np.float32).reshape(-1, 4), persons)


def _neighbours(key: KeyFrame, given: Sequence[pb.KeyFramePeople]) -> dict[KeyFrame, People]:
    boxes = sum(len(item.boxes) for item in given)
    if len(given) > _MAX_KEY_FRAMES_AROUND or boxes > MAX_BOXES_AROUND:
        raise InputError(
            f"neighbours has {len(given)} key frames with {boxes} boxes, but may have {_MAX_KEY_FRAMES_AROUND} with "
            f"{MAX_BOXES_AROUND} at most; leave out those farthest away."
        )
    found: dict[KeyFrame, People] = {}
    for item in given:
        other = KeyFrame(key.video, item.time_ms)
        if other == key or other in found:
            raise InputError(f"neighbours has {other} twice, or it is the key frame to score; give each once.")
        if len(item.boxes) > MAX_BOXES_PER_CALL:
            raise InputError(
                f"neighbours has {len(item.boxes)} boxes in {other}, but may have {MAX_BOXES_PER_CALL} at most."
            )
        found[other] = to_people(item.boxes)
    return found


def from_model(info: "ModelInfo") -> pb.Model:
    return pb.Model(
        run_id=info.run_id,
        checkpoint=info.checkpoint,
        digest=info.digest,
        head=info.head,
        epoch=info.epoch,
        validation_map=info.validation_map,
        labels=[pb.Label(id=label.id, name=label.name) for label in info.label_map.labels],
        neighbours=info.neighbours,
        neighbour_ms=info.neighbour_ms,
        bank_s=info.bank_s,
    )


def from_prediction(prediction: Prediction) -> pb.PredictHeader:
    return pb.PredictHeader(
        model=from_model(prediction.model),
        feature_set=prediction.feature_set,
        notes=prediction.notes,
        key_frames=prediction.num_key_frames,
        boxes=prediction.num_boxes,
    )


def from_scored(item: ScoredKeyFrame) -> pb.ScoredKeyFrame:
    return pb.ScoredKeyFrame(
        video=item.key.video,
        time_ms=item.key.time_ms,
        boxes=_packed(item.boxes_N4),
        scores=_packed(item.scores_NC),
        persons=() if item.persons_N is None else item.persons_N.tolist(),
    )


def _packed(values: NDArray[np.float32]) -> bytes:
    """Little-endian float32, row by row."""
    return values.astype("<f4", copy=False).tobytes()
