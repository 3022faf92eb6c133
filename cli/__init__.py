"""`stal-cli`: one file per command group, loaded only when called. Thin: the work is in the packages."""
