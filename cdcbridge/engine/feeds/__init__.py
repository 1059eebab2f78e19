"""Changefeeds.

`feed` is the cursor into the journal; `ranges`, `points` and `limits` know what a change of a document means to what is
watched; `elements` is what the client is told; `squash` and `lag` are the rules about changes that wait.
"""
