// Renews the credential in a creds file over NATS. Arguments: server URL, creds file.
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { connect, credsAuthenticator } from "@nats-io/transport-node";

const [servers, path] = process.argv.slice(2);
const text = readFileSync(path, "utf8");
const old = text.match(/-----BEGIN NATS USER JWT-----\s+(\S+)/)[1];
const user = JSON.parse(Buffer.from(old.split(".")[1], "base64url")).sub;
const authenticator = credsAuthenticator(new TextEncoder().encode(text));
const nc = await connect({ servers, authenticator, inboxPrefix: `_INBOX.${user}` });
const answer = await nc.request(`authority.renew.${user}`, "", { timeout: 10_000 });
await nc.close();
if (answer.headers?.get("Nats-Service-Error-Code")) {
  console.error(answer.string());
  process.exit(1);
}
writeFileSync(`${path}.new`, text.replace(old, answer.string()), { mode: 0o600, flush: true });
renameSync(`${path}.new`, path);
