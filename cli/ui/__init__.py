"""What commands share towards the user: option types, tables, progress, signals."""
