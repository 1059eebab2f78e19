"""The tests of cdcbridge."""
