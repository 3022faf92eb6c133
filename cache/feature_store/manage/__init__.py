"""What an operator does with feature sets: see what is missing, compare, copy, export, import, delete."""
