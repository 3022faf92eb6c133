"""The assignment problem, solved exactly. NumPy only."""

import numpy as np
from numpy.typing import NDArray


def least_cost(cost_NM: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return pairs of a row and a column of least total cost: min(N, M) of them, each row and column at most once.

    Shortest augmenting paths with potentials (Jonker and Volgenant; Crouse 2016), as in SciPy: O(N^2 M).
    """
    if cost_NM.shape[0] > cost_NM.shape[1]:
        return [(row, column) for column, row in least_cost(cost_NM.T)]
    rows, columns = cost_NM.shape
    row_cost, column_cost = np.zeros(rows), np.zeros(columns)
    row_of, column_of = np.full(columns, -1), np.full(rows, -1)
    for start in range(rows):
        shortest, before = np.full(columns, np.inf), np.full(columns, -1)
        reached = np.zeros(columns, dtype=np.bool_)
        row, length = start, 0.0
        while True:
            step = length + cost_NM[row] - row_cost[row] - column_cost
            better = ~reached & (step < shortest)
            shortest[better], before[better] = step[better], row
            left = np.where(reached, np.inf, shortest)
            length = float(left.min())
            ties = np.flatnonzero(left == length)
            free = ties[row_of[ties] < 0]  # first, else equal costs take as long as the worst ones
            column = int(free[0] if len(free) else ties[0])
            if row_of[column] < 0:
                break
            reached[column], row = True, row_of[column]
        rest = length - shortest[reached]
        row_cost[start] += length
        row_cost[row_of[reached]] += rest
        column_cost[reached] -= rest
        while True:
            row = row_of[column] = before[column]
            column_of[row], column = column, column_of[row]
            if row == start:
                break
    return list(enumerate(column_of.tolist()))
