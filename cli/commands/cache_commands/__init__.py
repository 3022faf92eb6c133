"""The commands of `stal-cli cache`, a file for each concern."""
