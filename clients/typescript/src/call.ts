/** A call to Bay as data: method, path, query and body, without any I/O. */

import type { Source } from "./bytes.js";
import { InvalidArgument } from "./errors.js";
import { newId, type Json } from "./names.js";

export type Query = Record<string, string | number | boolean | Date | null | undefined>;

/** The options of every call. */
export interface CallOptions {
  /** Gives the call up; it then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface Call {
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS";
  path: string;
  query?: Query;
  /** The body as JSON. */
  body?: Json;
  /** The body as bytes. */
  content?: Source;
  headers?: Record<string, string>;
  /** Sending it twice does no harm. */
  safe?: boolean;
  /** How much longer than other calls it may take, in seconds. */
  waitS?: number;
  /** Gives it up. */
  signal?: AbortSignal | undefined;
}

/** How much longer than other calls one may take that copies files where a copy is not instant. */
export const COPY_S = 600;

/** The longest wait of one request: short enough that no proxy between cuts it. */
export const SLICE_S = 30;

/** A call that changes nothing. */
export function get(path: string, query: Query = {}, waitS = 0): Call {
  return { method: "GET", path, query, safe: true, waitS };
}

/** A POST that may be sent again: its idempotency key, a fresh one unless given, has it done once. */
export function once(path: string, body: Json, key = newId("key"), rest: Partial<Call> = {}): Call {
  return { method: "POST", path, body, headers: { "Idempotency-Key": key }, safe: true, ...rest };
}

/** The path with the query. */
export function address(call: Call): string {
  const given = Object.entries(call.query ?? {}).filter(([, value]) => value !== undefined && value !== null);
  const pairs = given.map(([name, value]) => `${name}=${encodeURIComponent(asText(value))}`);
  return pairs.length ? `${call.path}?${pairs.join("&")}` : call.path;
}

function asText(value: unknown): string {
  return value instanceof Date ? value.toISOString() : String(value);
}

const THING = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** The path of a sandbox. Throws InvalidArgument for a text that could mean another path. */
export function sandboxPath(idOrName: string, ...rest: string[]): string {
  if (!THING.test(idOrName)) {
    const rule = "a name has a-z, 0-9 and '-'";
    throw new InvalidArgument(`${JSON.stringify(idOrName)} is neither the id nor the name of a sandbox; ${rule}`);
  }
  return ["/v1/sandboxes", idOrName, ...rest.map(segment)].join("/");
}

/** The path of one of the things of that noun, or below it. */
export function nounPath(noun: string, thing: string, ...rest: string[]): string {
  return ["/v1", noun, segment(thing), ...rest].join("/");
}

/** One part of a path. */
export function segment(text: string): string {
  if (["", ".", ".."].includes(text)) throw new InvalidArgument(`${JSON.stringify(text)} is not an id`);
  return encodeURIComponent(text);
}
