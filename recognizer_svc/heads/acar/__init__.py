"""Actor-context-actor relations with high-order reasoning (ACAR, HR2O)."""
