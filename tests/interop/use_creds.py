"""Works in its own environment with the official Python client, and is refused in the sibling.

Arguments: server URL, creds file, inbox prefix, own environment, sibling environment.
"""

import asyncio
import sys

import nats


async def main(url, creds, inbox, own, sibling):
    violations = []

    async def on_error(error):
        violations.append(str(error).lower())

    nc = await nats.connect(
        url, user_credentials=creds, inbox_prefix=inbox, error_cb=on_error, allow_reconnect=False
    )
    js = nc.jetstream(timeout=5)

    stream = f"ws-{own}-events"
    ack = await js.publish(f"ws.{own}.py.1", b"hello")
    assert ack.stream == stream, ack
    consumer = await js.pull_subscribe(f"ws.{own}.py.>", durable="py", stream=stream)
    [message] = await consumer.fetch(1, timeout=5)
    assert message.data == b"hello", message
    await message.ack_sync(timeout=5)

    kv = await js.key_value(f"ws-{own}-state")
    watcher = await kv.watch("py")
    await kv.put("py", b"running")
    assert (await kv.get("py")).value == b"running"
    # None says that everything older was told.
    while (entry := await watcher.updates(timeout=5)) is None:
        pass
    assert entry.value == b"running", entry
    await watcher.stop()
    assert not violations, violations

    async def refused(what, attempt):
        violations.clear()
        try:
            await attempt
        except (nats.errors.Error, asyncio.TimeoutError):
            pass
        else:
            raise AssertionError(f"{what} was let through")
        assert any("permissions violation" in words and what in words for words in violations), violations

    js = nc.jetstream(timeout=1)
    await refused(f"ws.{sibling}.", js.publish(f"ws.{sibling}.py.1", b"stolen"))
    await refused(
        f"ws-{sibling}-events",
        js.pull_subscribe(f"ws.{sibling}.>", durable="py", stream=f"ws-{sibling}-events"),
    )
    await refused(f"ws-{sibling}-state", js.key_value(f"ws-{sibling}-state"))
    await nc.close()
    print("held")


asyncio.run(main(*sys.argv[1:]))
