"""Capacity-swept mAP of action predictions. Needs neither torch nor grpc.

import stal_eval
result = stal_eval.evaluate("predictions.csv", "ground_truth.csv", "list_action.pbtxt")
print(result.best, result.mean_ap_at_50)
"""

from stal_eval.capacities import parse_capacities
from stal_eval.evaluation import evaluate
from stal_eval.requested import Requested
from stal_eval.result import Best, Evaluation

__all__ = ["Best", "Evaluation", "Requested", "evaluate", "parse_capacities"]
