/** The one client of Bay's API in this page. The cookie of the sign-in is its key. */

import { BayError, Client, type ClientOptions } from "bay-sandbox";

/** Proves that a call comes from this page: no page of another origin may send it. */
export const PROOF = { "Bay-Console": "1" } as const;

const options: ClientOptions = {
  baseUrl: location.origin,
  headers: PROOF,
  retryS: 3,
};

export const bay = new Client(options);

/** For the stream of events, which says by itself that it is broken. */
export const stream = new Client({ ...options, retryS: 0 });

/** The message of an error, for people: Bay's own say the thing, the fact and the way out. */
export function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The code of Bay's error; empty for another. */
export function codeOf(error: unknown): string {
  return error instanceof BayError ? error.code : "";
}
