"""What a diagnosis says."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A likely cause. cause: a short name; evidence: what was seen; fix: what to do."""

    cause: str
    evidence: str
    fix: str

    def __str__(self) -> str:
        return f"{self.evidence} {self.fix}"
