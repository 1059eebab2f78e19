"""cdcbridge: every committed change of a database reaches RabbitMQ, in order, and none is lost in silence."""

__version__ = "0.1.0"
