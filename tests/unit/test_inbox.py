"""The order and the fate of what a channel has delivered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdcbridge.errors import BrokerUnavailable
from listeners.inbox import Inbox


async def taken(inbox: Inbox) -> list[Any]:
    return list(await inbox.take())


async def filled(inbox: Inbox, *messages: Any) -> Inbox:
    for message in messages:
        await inbox.put(message)
    return inbox


async def test_messages_come_out_in_the_order_in_which_they_came_in() -> None:
    inbox = await filled(Inbox(keep_after_loss=False), "a", "b", "c")
    assert await taken(inbox) == ["a", "b", "c"]


async def test_taking_waits_for_the_first_message() -> None:
    inbox = Inbox(keep_after_loss=False)
    taking = asyncio.ensure_future(taken(inbox))
    await asyncio.sleep(0)
    assert not taking.done()
    await inbox.put("a")  # type: ignore[arg-type]
    assert await taking == ["a"]


async def test_a_lost_channel_wakes_the_one_who_waits_with_the_first_reason() -> None:
    inbox = Inbox(keep_after_loss=False)
    taking = asyncio.ensure_future(taken(inbox))
    await asyncio.sleep(0)
    inbox.lose("the reason")
    inbox.lose("what followed from it")
    with pytest.raises(BrokerUnavailable, match=r"^the reason$"):
        await taking


async def test_what_will_be_delivered_again_is_dropped_with_the_channel() -> None:
    inbox = await filled(Inbox(keep_after_loss=False), "a")
    inbox.lose("gone")
    await filled(inbox, "b")
    with pytest.raises(BrokerUnavailable):
        await inbox.take()


async def test_what_will_never_be_delivered_again_is_handed_out_before_the_loss_is_told() -> None:
    inbox = await filled(Inbox(keep_after_loss=True), "a")
    inbox.lose("gone")
    await filled(inbox, "b")
    assert await taken(inbox) == ["a", "b"]
    with pytest.raises(BrokerUnavailable):
        await inbox.take()


async def test_a_cancelled_take_loses_nothing() -> None:
    inbox = Inbox(keep_after_loss=False)
    taking = asyncio.ensure_future(taken(inbox))
    await asyncio.sleep(0)
    await inbox.put("a")  # type: ignore[arg-type]
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    assert await taken(inbox) == ["a"]
