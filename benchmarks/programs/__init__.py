"""What runs as a process of its own beside the daemon in a benchmark. Each prints one JSON document when it is done."""
