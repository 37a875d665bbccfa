// Verifies tokens with the official JavaScript library, an implementation that shares no code with
// ours. Reads one token a line from standard input; exit code 1 if one is refused or none came.
// Before the first use: npm ci

import { createInterface } from "node:readline";
import * as jwt from "@nats-io/jwt";
import { fromPublic } from "@nats-io/nkeys";

// Who may sign what and about whom (generic claims: anybody).
const KINDS = {
  operator: ["O", "O"],
  account: ["OA", "A"],
  user: ["A", "U"],
  activation: ["OA", "A"],
};

function check(token) {
  const claims = jwt.decode(token); // verifies the signature against `iss`
  fromPublic(claims.sub);
  if (claims.nats.version !== 2) {
    throw new Error(`version ${claims.nats.version}`);
  }
  const kind = KINDS[claims.nats.type];
  if (claims.nats.type !== undefined && kind === undefined) {
    throw new Error(`type ${claims.nats.type}`);
  }
  if (kind !== undefined && !(kind[0].includes(claims.iss[0]) && kind[1].includes(claims.sub[0]))) {
    throw new Error(`${claims.nats.type} of ${claims.sub[0]} signed by ${claims.iss[0]}`);
  }
}

let checked = 0;
let refused = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const token = line.trim();
  if (token === "") {
    continue;
  }
  checked += 1;
  try {
    check(token);
  } catch (error) {
    refused += 1;
    console.error(`token ${checked}: ${error.message}`);
  }
}
console.log(`${checked} tokens checked, ${refused} refused`);
process.exit(checked > 0 && refused === 0 ? 0 : 1);
