"""What did a change do? The tutorial's rule, in one place."""

from __future__ import annotations

from cdcbridge.change import Change, Operation


def classify(change: Change) -> Operation:
    """Create without an old value, delete without a new one, update with both; an initial value is a snapshot."""
    if change.snapshot:
        return Operation.SNAPSHOT
    if change.old_val is None:
        return Operation.CREATE
    if change.new_val is None:
        return Operation.DELETE
    return Operation.UPDATE
