"""WebVTT subtitles: who does what, for any video player."""

from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby

from cli.workflow.results.people import VideoPeople


def web_vtt(people: VideoPeople, names: Mapping[int, str]) -> str:
    """Return a subtitle file: while a person performs actions, a line `ID: action, action`. names: by label id."""
    return "WEBVTT\n\n" + "".join(f"{cue}\n\n" for cue in _cues(people, names))


def _cues(people: VideoPeople, names: Mapping[int, str]) -> Iterator[str]:
    # Sorted, so that a change of the order of scores begins no new cue.
    texts = [
        "\n".join(
            f"{person}: {', '.join(sorted(_text(names[label]) for label, _ in found.actions))}"
            for person, found in sorted(there.items())
            if found.actions
        )
        for there in people.people
    ]
    for text, group in groupby(zip(people.spans(), texts, strict=True), key=lambda item: item[1]):
        spans = [span for span, _ in group]
        if text:
            yield f"{_time(spans[0][0])} --> {_time(spans[-1][1])}\n{text}"


def _text(name: str) -> str:
    return escape(" ".join(name.split()), quote=False)


def _time(ms: float) -> str:
    seconds, rest = divmod(max(0, round(ms)), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"
