// A build by the TypeScript SDK on a server that plays Bay: `node typescript_build.mjs CONTEXT TAR WAY`.
//
// The tar that it gets is written to TAR. Prints one JSON object: the requests, the log, and what the build gave or
// threw. With the WAY `leave` the caller leaves as soon as the log has begun; with `fail` Bay says that a step failed; `steps` are
// given in place of a Dockerfile; with `throw` the log throws an error as of a connection.

import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { Client, ConnectionFailed } from "../../../clients/typescript/dist/index.js";

const [, , context, tar, way] = process.argv;
const requests = [];
let looks = 0;

async function bodyOf(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts);
}

/** What the template is like: it is still built when the first answer with its log has ended. */
function template() {
  looks += 1;
  if (looks === 1) return { id: "tpl-1", state: "building" };
  const error = way === "fail" ? { code: "build_failed", message: "line 2: false ended with 1" } : null;
  return { id: "tpl-1", state: error ? "failed" : "ready", error };
}

const server = createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://bay");
  const body = await bodyOf(request);
  const isTar = pathname.endsWith("/context");
  if (isTar) await writeFile(tar, body);
  const data = isTar || !body.length ? null : JSON.parse(body);
  requests.push([request.method, pathname, data, searchParams.get("since")]);
  if (!pathname.endsWith("/log")) {
    const answer = request.method === "GET" ? template() : { id: "tpl-1", state: "building" };
    response.end(JSON.stringify(answer));
    return;
  }
  const log = Buffer.from("STEP 1\nSTEP 2: grün\n").subarray(Number(searchParams.get("since")));
  // The first answer ends within a letter.
  if (way !== "leave") response.end(looks ? log : log.subarray(0, 18));
  else response.write(log);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const client = new Client({ baseUrl: `http://127.0.0.1:${server.address().port}` });
const abort = new AbortController();
let log = "";
const options = {
  ...(way === "steps" ? { image: "debian:13", steps: [{ run: "true" }] } : { args: { A: "b" } }),
  stepTimeoutS: 5,
  secrets: ["TOKEN"],
  signal: abort.signal,
  log: (part) => {
    log += part;
    if (way === "throw") throw new ConnectionFailed("of the log");
    if (way === "leave") abort.abort(new RangeError("enough"));
  },
};
const ended = await client.templates.build(context, "app:1", options).then(
  ({ state }) => ({ state }),
  ({ name, message, code }) => ({ name, message, code }),
);
console.log(JSON.stringify({ requests, log, ended }));
server.closeAllConnections();
server.close();
