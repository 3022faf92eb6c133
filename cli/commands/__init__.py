"""One file a command, thin: options, help, and the call of what does the work."""
