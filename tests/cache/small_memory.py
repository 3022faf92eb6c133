"""Computes a batch under a limit of memory that it does not fit; see test_precompute_compute.py.

Prints the largest difference from the same clips computed without a limit, and each note on a line of its own.
"""

import resource
import sys
from pathlib import Path

import torch

from cache.backbones.load import load_backbone
from cache.precompute.extract import Extractor

BATCH = 16
SPARE_BYTES = int(sys.argv[1]) if len(sys.argv) > 1 else 0


def main() -> None:
    torch.set_num_threads(1)
    vit = load_backbone("vit", weights="random:0", preset="small")
    size = (vit.spec.height, vit.spec.width)
    random = torch.Generator().manual_seed(0)
    clips = {size: torch.randint(0, 256, (BATCH, 32, *size, 3), dtype=torch.uint8, generator=random)}
    notes: list[str] = []
    one_by_one = Extractor([vit], torch.device("cpu"), batch_size=1)
    expected = one_by_one.launch(clips, ["identity"]).arrays()["identity"]["vit"]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, resource.RLIM_INFINITY))
    extractor = Extractor([vit], torch.device("cpu"), batch_size=BATCH, note=notes.append)
    found = extractor.launch(clips, ["identity"]).arrays()["identity"]["vit"]
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(abs(found - expected).max() / abs(expected).max())
    print(*notes, sep="\n")


if __name__ == "__main__":
    main()
