"""YAML recipes: one per published run, plus the demo's."""
