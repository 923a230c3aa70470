"""Everything on one machine with one command: the servers, Tandem's own processes, the demo project."""
