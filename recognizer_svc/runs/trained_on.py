"""What a run was trained on, read without torch."""

import json
from collections.abc import Collection

from cache.spec import FeatureSpec
from cache.tensor_header import read_header
from recognizer_svc.runs.run_dir import METADATA_KEY, SUFFIX, RunDir
from stal_data.errors import InputError


def features_trained_on(run: RunDir) -> tuple[FeatureSpec, Collection[str]] | None:
    """Return the spec of the features, identity view, and the arrays of them that the head is given.

    None without a checkpoint of this version.

    The checksum is left to who loads the checkpoint: a wrong spec would only make features that the head refuses.
    """
    for name in run.present_checkpoints():
        path = run.checkpoint(name)
        if path.suffix == SUFFIX:
            with path.open("rb") as file:
                header = read_header(file, str(path))
            try:
                metadata = json.loads(header["__metadata__"][METADATA_KEY])
                given = [name for name, _ in dict(metadata["shapes"]).get("arrays", ())]  # earlier versions: as stored
                return FeatureSpec.from_dict(json.loads(metadata["feature_spec"])), given
            except (LookupError, TypeError, ValueError) as error:
                raise InputError(f"'{path}' is no checkpoint of this program ({error!r:.200}).") from None
    return None
