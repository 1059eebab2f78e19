"""The only file that settles deliveries: an ack says that a message has been handled and may be forgotten."""

from __future__ import annotations

from aio_pika.abc import AbstractIncomingMessage
from structlog.typing import FilteringBoundLogger

from cdcbridge.errors import BrokerUnavailable
from listeners.translate import lost


async def ack_all(messages: list[AbstractIncomingMessage], log: FilteringBoundLogger, *, comes_again: bool) -> None:
    """Ack these messages with one frame; they have all been handled.

    They must be everything that the channel has delivered up to the last of them and that is not acked yet, in that
    order: the ack covers all of it. Delivery tags end with their channel, so an ack that comes too late is lost:
    RabbitMQ will deliver these messages again, which is logged and no failure. `comes_again` is false for a queue that
    ends with its connection: there is nothing to tell then.
    """
    try:
        with lost():
            await messages[-1].ack(multiple=True)
    except BrokerUnavailable as exc:
        if comes_again:
            log.warning("message_retried", messages=len(messages), reason=f"handled, but not acked: {exc}")
