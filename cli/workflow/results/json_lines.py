"""actions.jsonl: a line for each person of each key frame."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cache.files import replacing
from cli.workflow.results.people import VideoPeople


@contextmanager
def writing_json_lines(path: Path, names: Mapping[int, str]) -> Iterator[Callable[[VideoPeople], None]]:
    """Yield what adds a video; the file takes its place when the block ends well. names: by label id."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:

        def add(video: VideoPeople) -> None:
            for time_ms, there in zip(video.times_ms, video.people, strict=True):
                for person, found in there.items():
                    line = {
                        "video": video.video,
                        "time_s": time_ms // 1000 if time_ms % 1000 == 0 else time_ms / 1000,
                        "person": person,
                        "box": [round(side, 4) for side in found.box],
                        "actions": {names[label]: round(score, 4) for label, score in found.actions},
                    }
                    file.write(f"{json.dumps(line)}\n")

        yield add
