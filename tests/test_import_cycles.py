"""No import cycle, imports inside functions included: grimp finds those, too."""

from graphlib import TopologicalSorter

import grimp

PACKAGES = ("cache", "cli", "detector_svc", "protos", "recognizer_svc", "stal", "stal_data", "stal_eval", "svc_common")


def test_no_module_imports_itself_over_others() -> None:
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert imports["cache.feature_store.locate"] >= {"cache.feature_store.remote_set"}  # inside a function
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the cycle
