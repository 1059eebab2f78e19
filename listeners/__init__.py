"""The receiving end: messages of cdcbridge, or of the tutorial's publisher, out of a queue and into a listener's hands.

The flow reads from the file names: `subscription` (queue) → `decode` → `pretty` or `json_lines` → `output` → `settle`.
`worker` runs it. This package knows RabbitMQ and the wire contract, and nothing of sources, engine or bridge.
"""
