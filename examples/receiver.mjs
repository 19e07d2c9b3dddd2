// Receive pushes of meldwatch: verify the signature, store each event once, answer 204. Node 18 or later.
//
//     SECRET=whsec_... PORT=8080 node receiver.mjs

import { createHmac, timingSafeEqual } from "node:crypto";
import { existsSync, fsyncSync, openSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";

const KEY = Buffer.from((process.env.SECRET ?? "").replace(/^whsec_/, ""), "base64");
const PORT = Number(process.env.PORT ?? 8080);
const JOURNAL = process.env.JOURNAL ?? "events.jsonl";
const TOLERANCE_SECONDS = 300;
const MAX_BODY_BYTES = 8 * 1024 * 1024;

// Returns whether meldwatch signed exactly these bytes within the last minutes. Check this before parsing them.
function isGenuine(headers, body, now) {
  const [id, timestamp, signatures] = ["id", "timestamp", "signature"].map((name) => headers[`webhook-${name}`] ?? "");
  if (!id || !/^[0-9]{1,12}$/.test(timestamp) || Math.abs(now - Number(timestamp)) > TOLERANCE_SECONDS) return false;
  const digest = createHmac("sha256", KEY).update(`${id}.${timestamp}.`).update(body).digest("base64");
  const expected = Buffer.from(`v1,${digest}`);
  // During a rotation there are several signatures, one per secret. The comparison takes constant time.
  return signatures.split(" ").some((signature) => {
    const given = Buffer.from(signature);
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

// Returns the ids of the events in the journal. Removes an incomplete last line (after a crash): its event comes again.
function readIds() {
  if (!existsSync(JOURNAL)) return new Set();
  const content = readFileSync(JOURNAL);
  const whole = content.subarray(0, content.lastIndexOf("\n") + 1);
  truncateSync(JOURNAL, whole.length);
  return new Set(whole.toString().split("\n").filter(Boolean).map((line) => JSON.parse(line).id));
}

// Store an event once: it is on the disk when this returns. In a database, make the id a unique key instead.
//
// Process the events from the journal, not here: it has each event once, and those of a connection in order, because
// the next one is sent after this one is answered. Only a redriven or replayed event arrives late; then its `sequence`
// is below the last one of its `subject`.
function storeOnce(event) {
  if (seen.has(event.id)) return;
  writeFileSync(journal, JSON.stringify(event) + "\n");
  fsyncSync(journal);
  seen.add(event.id);
  console.log(event.sequence, event.type, event.subject, JSON.stringify(event.data.current));
}

async function rawBody(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > MAX_BODY_BYTES) throw new RangeError("the body is too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

async function receive(request, response) {
  const body = await rawBody(request).catch(() => null);
  if (body === null) return request.destroy();
  if (request.method !== "POST") return response.writeHead(405).end();
  if (!isGenuine(request.headers, body, Date.now() / 1000)) return response.writeHead(401).end();
  // An error here ends the program without an answer. After a restart the event comes again.
  storeOnce(JSON.parse(body));
  return response.writeHead(204).end();
}

if (!KEY.length) {
  console.error("SECRET is not set. Use the secret shown when the subscription was created (whsec_...).");
  process.exit(2);
}
const seen = readIds();
const journal = openSync(JOURNAL, "a");
const server = createServer(receive).listen(PORT, "127.0.0.1");
server.keepAliveTimeout = 30_000; // longer than meldwatch keeps an idle connection
