"""One short function per command, called by tests without a shell."""
