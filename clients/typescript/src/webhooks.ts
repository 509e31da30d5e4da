/** Webhooks: the receivers of the server's events, and the check of the signature on what they receive. */

import { fromBase64, joined, toBytes } from "./bytes.js";
import { get, nounPath, once, type CallOptions } from "./call.js";
import { InvalidArgument } from "./errors.js";
import { eventOf } from "./events.js";
import { Noun } from "./http.js";
import type { Event, Webhook } from "./types.js";

const PREFIX = "whsec_";
/** How far a webhook's timestamp may be from this machine's clock. */
const TOLERANCE_S = 300;

/** The webhooks of the key's owner. */
export class Webhooks extends Noun {
  /**
   * Have events of `types` (none = all) sent to `url`. This answer alone has the `secret` they are signed with.
   * Throws InvalidArgument when the URL's host is not on a public address, QuotaExceeded beyond 20.
   */
  async create(url: string, types: readonly string[] = [], { signal }: CallOptions = {}): Promise<Webhook> {
    return this.http.json<Webhook>(once("/v1/webhooks", { url, types: [...types] }, undefined, { signal }));
  }

  /** All of them, oldest first. */
  async list({ signal }: CallOptions = {}): Promise<Webhook[]> {
    return this.http.all<Webhook>({ ...get("/v1/webhooks"), signal });
  }

  /** One, with how its deliveries go. Throws NotFound. */
  async get(webhookId: string, { signal }: CallOptions = {}): Promise<Webhook> {
    return this.http.json<Webhook>({ ...get(nounPath("webhooks", webhookId)), signal });
  }

  /** Remove a webhook. Throws NotFound, also the second time. */
  async delete(webhookId: string, { signal }: CallOptions = {}): Promise<void> {
    await this.http.json({ method: "DELETE", path: nounPath("webhooks", webhookId), safe: true, signal });
  }
}

export interface VerifyOptions {
  /** 300 seconds. */
  toleranceS?: number;
  /** Seconds since the epoch, for tests. */
  now?: number;
}

type RequestHeaders = Headers | Readonly<Record<string, string | readonly string[] | undefined>>;

/**
 * The event of a webhook request, signed with `secret` (`whsec_…`) at most `toleranceS` seconds ago; the signature is
 * that of Standard Webhooks (https://www.standardwebhooks.com).
 *
 * `headers` are a fetch request's or Node's. `body` is the raw body, before anything parses it. Throws
 * InvalidArgument when the signature is missing or wrong, or the timestamp more than `toleranceS` away: answer such a
 * request with 400. An event may be delivered twice, with the same `webhook-id`.
 */
export async function verifyWebhook(
  secret: string,
  headers: RequestHeaders,
  body: string | Uint8Array,
  { toleranceS = TOLERANCE_S, now = Date.now() / 1000 }: VerifyOptions = {},
): Promise<Event> {
  const given = (name: string): string => headerOf(headers, name);
  const timestamp = given("webhook-timestamp");
  const data = toBytes(body);
  const signed = joined([toBytes(`${given("webhook-id")}.${timestamp}.`), data]);
  if (!(await isSigned(await keyOf(secret), given("webhook-signature"), signed))) {
    throw new InvalidArgument("the signature of this request is invalid; is the secret this webhook's?");
  }
  if (!/^\d+$/.test(timestamp) || Math.abs(now - Number(timestamp)) > toleranceS) {
    throw new InvalidArgument(`this request was signed more than ${toleranceS} s ago or ahead; is the clock right?`);
  }
  return eventOf(new TextDecoder().decode(data));
}

/** A header's text, "" without one. A record is searched: of node:http2 it has names that `Headers` refuses. */
function headerOf(headers: RequestHeaders, name: string): string {
  if (headers instanceof Headers) return headers.get(name) ?? "";
  const found = Object.entries(headers).find(([key, value]) => key.toLowerCase() === name && value !== undefined);
  return String(found?.[1] ?? "");
}

async function keyOf(secret: string): Promise<CryptoKey> {
  const text = secret.slice(PREFIX.length);
  // The decoders differ in what they let pass: the form is looked at first.
  const isKey = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text) && text !== "";
  if (!secret.startsWith(PREFIX) || !isKey) {
    throw new InvalidArgument("the webhook's secret is not whsec_ and base64; use the one that Bay showed");
  }
  const key = fromBase64(text) as Uint8Array<ArrayBuffer>;
  return crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
}

/** Whether one of the signatures is right. The comparison takes the same time wherever they differ. */
async function isSigned(key: CryptoKey, signatures: string, signed: Uint8Array): Promise<boolean> {
  const found = signatures.split(" ").filter((one) => /^v1,[A-Za-z0-9+/]{43}=$/.test(one));
  const checks = found.map((one) => {
    const signature = fromBase64(one.slice("v1,".length)) as Uint8Array<ArrayBuffer>;
    return crypto.subtle.verify("HMAC", key, signature, signed as Uint8Array<ArrayBuffer>);
  });
  return (await Promise.all(checks)).includes(true);
}
