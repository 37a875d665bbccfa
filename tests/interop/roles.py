"""Tries every cell of the role matrix with the official Python client.

Reads {"url", "roles": [{"role", "creds", "inbox", "cells": [cell]}]} from standard input and writes
{role: {cell id: "yes", "no" or what else happened}}. "no" is a refusal that the server has told.
"""

import asyncio
import json
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig


class Refused(Exception):
    pass


class Runner:
    def __init__(self, cells):
        self.cells = cells
        self.violations = asyncio.Queue()
        self.sentinels = 0
        self.pulled = {}

    async def on_error(self, error):
        text = str(error)
        if "permissions violation" in text.lower():
            self.violations.put_nowait(text)

    async def run(self, url, creds, inbox):
        self.nc = await nats.connect(
            url, user_credentials=creds, inbox_prefix=inbox, error_cb=self.on_error, allow_reconnect=False
        )
        # What is refused is told at once: nothing here waits for this time to pass.
        self.js = self.nc.jetstream(timeout=20)
        results = {}
        for cell in self.cells:
            results[cell["id"]] = await self.attempt(cell)
        await self.nc.close()
        return results

    async def told(self):
        """What the server has refused up to now: it answers in order, and refuses this as well."""
        self.sentinels += 1
        sentinel = f"sentinel.{self.sentinels}"
        await self.nc.publish(sentinel, b"")
        await self.nc.flush()
        told = []
        while sentinel not in (text := await self.violations.get()).replace('"', " ").split():
            told.append(text)
        return told

    async def attempt(self, cell):
        does = cell["does"]
        doing = asyncio.ensure_future(getattr(self, does.replace("-", "_"))(cell))
        refused = asyncio.ensure_future(self.violations.get())
        await asyncio.wait([doing, refused], return_when=asyncio.FIRST_COMPLETED, timeout=30)
        early = [refused.result()] if refused.done() else []
        refused.cancel()
        if not doing.done():
            doing.cancel()
        [outcome] = await asyncio.gather(doing, return_exceptions=True)
        told = early + await self.told()
        if does in ("publish", "subscribe"):
            return "no" if told else "yes" if not isinstance(outcome, BaseException) else repr(outcome)
        if not isinstance(outcome, BaseException):
            return "yes"
        return "no" if told else f"failed: {outcome!r}"

    async def request(self, cell):
        answer = await self.nc.request(cell["subject"], cell["body"].encode(), timeout=20)
        error = json.loads(answer.data or b"{}").get("error")
        if error:
            raise RuntimeError(error)

    async def publish(self, cell):
        if before := cell.get("before"):
            await self.nc.request(before["subject"], before["body"].encode(), timeout=20)
        await self.nc.publish(cell["subject"], cell["body"].encode(), reply=cell["reply"])

    async def subscribe(self, cell):
        subscription = await self.nc.subscribe(cell["subject"])
        await self.nc.flush()
        await subscription.unsubscribe()

    async def publish_acknowledged(self, cell):
        ack = await self.js.publish(f"ws.{cell['env']}.python", b"x")
        assert ack.stream == cell["stream"], ack

    async def consumer_info(self, cell):
        await self.js.consumer_info(cell["stream"], "work")

    async def pull(self, cell):
        subscription = await self.js.pull_subscribe_bind("work", cell["stream"])
        [self.pulled[cell["env"]]] = await subscription.fetch(1, timeout=20)

    async def acknowledge(self, cell):
        if message := self.pulled.get(cell["env"]):
            await message.ack_sync(timeout=20)
        else:
            await self.nc.request(f"$JS.ACK.{cell['stream']}.work.1.1.1.1.0", b"+ACK", timeout=20)

    async def ordered_consumer(self, cell):
        subject = f"ws.{cell['env']}.seed"
        subscription = await self.js.subscribe(subject, stream=cell["stream"], ordered_consumer=True)
        await subscription.next_msg(timeout=20)
        await subscription.unsubscribe()

    async def direct_get(self, cell):
        await self.js.get_last_msg(cell["stream"], f"ws.{cell['env']}.seed", direct=True)

    async def get(self, cell):
        await self.js.get_last_msg(cell["stream"], f"ws.{cell['env']}.seed")

    async def stream_info(self, cell):
        await self.js.stream_info(cell["stream"])

    async def kv_get(self, cell):
        kv = await self.js.key_value(cell["bucket"])
        assert (await kv.get("seed")).value == b"seed"

    async def kv_put(self, cell):
        # Not `js.key_value(…).put(…)`: a refusal to open would hide whether writing is refused.
        kv = nats.js.kv.KeyValue(
            name=cell["bucket"], stream=f"KV_{cell['bucket']}", pre=f"$KV.{cell['bucket']}.", js=self.js, direct=True
        )
        await kv.put(f"by-{cell['run']}", b"x")

    async def kv_watch(self, cell):
        kv = await self.js.key_value(cell["bucket"])
        watcher = await kv.watch("seed")
        assert (await watcher.updates(timeout=20)).value == b"seed"
        await watcher.stop()

    async def consumer_create(self, cell):
        config = ConsumerConfig(durable_name=f"try-{cell['run']}", ack_policy=AckPolicy.EXPLICIT)
        await self.js.add_consumer(cell["stream"], config)

    async def consumer_delete(self, cell):
        await self.js.delete_consumer(cell["stream"], f"try-{cell['run']}")

    async def account_info(self, cell):
        await self.js.account_info()


async def main():
    task = json.load(sys.stdin)
    results = await asyncio.gather(
        *(Runner(role["cells"]).run(task["url"], role["creds"], role["inbox"]) for role in task["roles"])
    )
    print(json.dumps(dict(zip((role["role"] for role in task["roles"]), results))))


asyncio.run(main())
