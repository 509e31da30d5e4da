/** The answers of Bay are read here, and unsuccessful ones thrown as errors. */

import { BayError, ConnectionFailed, errorFromWire, Unauthorized } from "./errors.js";
import { jsonOrUndefined } from "./lines.js";

/** Causes of a failed fetch before which nothing was sent. */
const NOT_SENT = /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|CONNECT_TIMEOUT|Connect\)/;

/** Throws what an unsuccessful answer stands for. */
export async function check(response: Response, url: string): Promise<void> {
  if (response.ok) return;
  if (response.status >= 300 && response.status < 400) throw redirected(response, url);
  const body = jsonOrUndefined(await response.text());
  if (!namesAnError(body)) throw notBay(response, url);
  const error = errorFromWire(response.status, body);
  const after = response.headers.get("retry-after") ?? "";
  if (/^\d+$/.test(after)) error.details["retry_after_ms"] ??= Number(after) * 1000;
  throw error instanceof Unauthorized ? withWayOut(error) : error;
}

/** The JSON of a successful answer, {} for an empty one. */
export async function decode<T>(response: Response, url: string): Promise<T> {
  const text = await response.text();
  const body = text === "" ? {} : jsonOrUndefined(text);
  if (typeof body !== "object" || body === null) throw notBay(response, url);
  return body as T;
}

/** Any failure of a fetch, as an error of Bay; what the caller's own signal says stays as it is. */
export function failure(error: unknown, url: string, signal: AbortSignal): unknown {
  if (error instanceof BayError) return error;
  if (signal.aborted) return signal.reason;
  const words = wordsOf(error);
  if (NOT_SENT.test(words)) {
    const way = "start it with `bay serve`, or set BAY_URL to where it runs";
    return new ConnectionFailed(`cannot reach Bay at ${url}: ${words}; ${way}`, {
      details: { url, sent: false },
      cause: error,
    });
  }
  const details = { url, sent: true };
  return new ConnectionFailed(`the connection to ${url} broke: ${words}`, { details, cause: error });
}

interface Cause {
  code?: string;
  message?: string;
  cause?: Cause;
}

function wordsOf(error: unknown): string {
  const found: string[] = [];
  for (let one = error as Cause | undefined; one; one = one.cause) {
    found.push([one.code, one.message].filter(Boolean).join(" "));
  }
  return found.filter(Boolean).join(": ");
}

function namesAnError(body: unknown): boolean {
  const error = (body as { error?: unknown } | null | undefined)?.error;
  return typeof error === "object" && error !== null;
}

function withWayOut(error: Unauthorized): Unauthorized {
  const { status, details, requestId } = error;
  const where = "a server keeps the first one it made in admin.key in its data directory";
  return new Unauthorized(`${error.message}; check BAY_API_KEY: ${where}`, { status, details, requestId });
}

function redirected(response: Response, url: string): BayError {
  const where = response.headers.get("location");
  return new BayError(
    `${url} answered with a redirect to ${where}, which is not followed; if that is Bay, set BAY_URL to it`,
    { status: response.status },
  );
}

function notBay(response: Response, url: string): BayError {
  const kind = (response.headers.get("content-type") ?? "no content type").split(";")[0];
  return new BayError(
    `${url} answered HTTP ${response.status} with ${kind}, which is not an answer of Bay; ` +
      "check that BAY_URL is Bay and no proxy stands between",
    { status: response.status },
  );
}
