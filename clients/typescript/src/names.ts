/** Names of options: camelCase in programs, snake_case on the wire. */

import type { Query } from "./call.js";

export type Json = Record<string, unknown>;

type CamelKey<Key extends string> = Key extends `${infer First}_${infer Rest}`
  ? `${First}${Capitalize<CamelKey<Rest>>}`
  : Key;

/** The fields of a request as options: their own names in camelCase. What is inside of a field stays as it is. */
export type Camel<Fields> = {
  [Key in keyof Fields as Key extends string ? CamelKey<Key> : never]: Fields[Key];
};

/** The body of a request that has these options. One that is undefined is left out; null is sent. */
export function wire(options: object): Json {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given.map(([name, value]) => [snake(name), value]));
}

/** The query of a request that has these options. */
export function filters(options: object): Query {
  return wire(options) as Query;
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** A fresh id such as `exec-3f…`: the prefix and 96 random bits in hexadecimal digits. */
export function newId(prefix: "exec" | "cell" | "key"): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `${prefix}-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
