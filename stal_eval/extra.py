"""The packages of the extra `evaluation`; where one is missing, the error says what to install."""

from stal_data.errors import how_to_install

try:
    import pandas as pd
    from numba import njit
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Evaluation needs {error.name}, which is not installed; {how_to_install('evaluation')}", name=error.name
    ) from error

__all__ = ["njit", "pd"]
