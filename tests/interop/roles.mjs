// Tries every cell of the role matrix with the official JavaScript client. Reads
// {"url", "roles": [{"role", "creds", "inbox", "cells": [cell]}]} from standard input and writes
// {role: {cell id: "yes", "no" or what else happened}}. "no" is a refusal that the server has told.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect, credsAuthenticator } from "@nats-io/transport-node";

// What is refused is told at once: nothing here waits for this time to pass.
const timeout = 20_000;
const bucketOf = (js, cell) => new Kvm(js).open(cell.bucket);

class Runner {
  violations = [];
  waiting = [];
  sentinels = 0;
  pulled = new Map();

  async run({ url }, { creds, inbox, cells }) {
    const authenticator = credsAuthenticator(readFileSync(creds));
    this.nc = await connect({ servers: url, authenticator, inboxPrefix: inbox, reconnect: false });
    this.listen();
    // The account's own information is nothing that a client here may ask for.
    const options = { checkAPI: false, timeout };
    this.js = jetstream(this.nc, options);
    this.jsm = await jetstreamManager(this.nc, options);
    const results = {};
    for (const cell of cells) {
      results[cell.id] = await this.attempt(cell);
    }
    await this.nc.close();
    return results;
  }

  async listen() {
    for await (const { type, error } of this.nc.status()) {
      if (type === "error" && /permissions violation/i.test(error.message)) {
        this.violations.push(error);
        this.waiting.splice(0).forEach((resolve) => resolve());
      }
    }
  }

  // Resolves when there is a violation, and leaves it where it is.
  async refusal() {
    while (this.violations.length === 0) {
      await new Promise((resolve) => this.waiting.push(resolve));
    }
    return this.violations[0];
  }

  async violation() {
    await this.refusal();
    return this.violations.shift();
  }

  // What the server has refused up to now: it answers in order, and refuses this as well.
  async told() {
    const sentinel = `sentinel.${++this.sentinels}`;
    this.nc.publish(sentinel);
    const told = [];
    for (;;) {
      const error = await this.violation();
      if (error.message.includes(`"${sentinel}"`)) {
        return told;
      }
      told.push(error.message);
    }
  }

  async attempt(cell) {
    // What was refused may never end.
    const doing = DOES[cell.does].call(this, cell).then(() => undefined, (error) => error);
    const outcome = await Promise.race([doing, this.refusal()]);
    const told = await this.told();
    if (cell.does === "publish" || cell.does === "subscribe") {
      return told.length > 0 ? "no" : outcome ? `failed: ${outcome}` : "yes";
    }
    return !outcome ? "yes" : told.length > 0 ? "no" : `failed: ${outcome}`;
  }
}

const DOES = {
  async request({ subject, body }) {
    const answer = await this.nc.request(subject, body, { timeout });
    const { error } = answer.data.length > 0 ? answer.json() : {};
    if (error) {
      throw new Error(JSON.stringify(error));
    }
  },
  async publish({ before, subject, body, reply }) {
    if (before) {
      await this.nc.request(before.subject, before.body, { timeout });
    }
    this.nc.publish(subject, body, reply ? { reply } : {});
  },
  async subscribe({ subject }) {
    const subscription = this.nc.subscribe(subject, { callback: () => {} });
    await this.nc.flush();
    subscription.unsubscribe();
  },
  async "publish-acknowledged"({ env, stream }) {
    assert.equal((await this.js.publish(`ws.${env}.javascript`, "x")).stream, stream);
  },
  async "consumer-info"({ stream }) {
    await this.jsm.consumers.info(stream, "work");
  },
  async pull({ stream, env }) {
    // Without asking for the consumer's information first: that is a cell of its own.
    const consumer = this.js.consumers.getConsumerFromInfo({ stream_name: stream, name: "work", config: {} });
    this.pulled.set(env, await consumer.next({ expires: timeout }));
  },
  async acknowledge({ stream, env }) {
    const message = this.pulled.get(env);
    if (message) {
      assert.equal(await message.ackAck(), true);
    } else {
      await this.nc.request(`$JS.ACK.${stream}.work.1.1.1.1.0`, "+ACK", { timeout });
    }
  },
  async "ordered-consumer"({ stream, env }) {
    const consumer = await this.js.consumers.get(stream, { filter_subjects: `ws.${env}.seed` });
    const message = await consumer.next({ expires: timeout });
    assert.equal(message.string(), "seed");
  },
  async "direct-get"({ stream, env }) {
    const message = await this.jsm.direct.getMessage(stream, { last_by_subj: `ws.${env}.seed` });
    assert.equal(message.string(), "seed");
  },
  async get({ stream, env }) {
    const message = await this.jsm.streams.getMessage(stream, { last_by_subj: `ws.${env}.seed` });
    assert.equal(message.string(), "seed");
  },
  async "stream-info"({ stream }) {
    await this.jsm.streams.info(stream);
  },
  async "kv-get"(cell) {
    assert.equal((await (await bucketOf(this.js, cell)).get("seed")).string(), "seed");
  },
  async "kv-put"(cell) {
    await (await bucketOf(this.js, cell)).put(`by-${cell.run}`, "x");
  },
  async "kv-watch"(cell) {
    const watch = await (await bucketOf(this.js, cell)).watch({ key: "seed" });
    for await (const entry of watch) {
      assert.equal(entry.string(), "seed");
      break;
    }
  },
  async "consumer-create"({ stream, run }) {
    await this.jsm.consumers.add(stream, { durable_name: `try-${run}`, ack_policy: "explicit" });
  },
  async "consumer-delete"({ stream, run }) {
    await this.jsm.consumers.delete(stream, `try-${run}`);
  },
  async "account-info"() {
    await this.jsm.getAccountInfo();
  },
};

let text = "";
for await (const chunk of process.stdin) {
  text += chunk;
}
const task = JSON.parse(text);
const results = await Promise.all(task.roles.map((role) => new Runner().run(task, role)));
console.log(JSON.stringify(Object.fromEntries(task.roles.map(({ role }, index) => [role, results[index]]))));
process.exit(0);
