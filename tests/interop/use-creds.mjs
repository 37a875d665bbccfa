// Works in its own environment with the official JavaScript client, and is refused in the sibling.
// Arguments: server URL, creds file, inbox prefix, own environment, sibling environment.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect, credsAuthenticator } from "@nats-io/transport-node";

const [servers, creds, inboxPrefix, own, sibling] = process.argv.slice(2);
const authenticator = credsAuthenticator(readFileSync(creds));
const nc = await connect({ servers, authenticator, inboxPrefix, reconnect: false });
// The account's own information is nothing that a client here may ask for.
const options = { checkAPI: false, timeout: 5_000 };
const js = jetstream(nc, options);
const jsm = await jetstreamManager(nc, options);

const stream = `ws-${own}-events`;
const ack = await js.publish(`ws.${own}.js.1`, "hello");
assert.equal(ack.stream, stream);
await jsm.consumers.add(stream, { durable_name: "js", ack_policy: "explicit", filter_subject: `ws.${own}.js.>` });
const message = await (await js.consumers.get(stream, "js")).next({ expires: 5_000 });
assert.equal(message.string(), "hello");
assert.equal(await message.ackAck(), true);

const kv = await new Kvm(js).open(`ws-${own}-state`);
const watch = await kv.watch({ key: "js" });
await kv.put("js", "running");
assert.equal((await kv.get("js")).string(), "running");
for await (const entry of watch) {
  assert.equal(entry.string(), "running");
  break;
}

const refused = (promise) => assert.rejects(promise, /permissions violation/i);
await refused(js.publish(`ws.${sibling}.js.1`, "stolen"));
await refused(jsm.consumers.add(`ws-${sibling}-events`, { durable_name: "js", ack_policy: "explicit" }));
await refused(new Kvm(js).open(`ws-${sibling}-state`).then((kv) => kv.get("js")));
await nc.close();
console.log("held");
