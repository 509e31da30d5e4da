/** The client's configuration: Bay's URL, the key and the time limits, read once, when a client is made. */

import { InvalidArgument } from "./errors.js";
import { VERSION } from "./version.js";

const DEFAULT_URL = "http://127.0.0.1:8700";

export interface ClientOptions {
  /** Where Bay is; else `BAY_URL`, else this machine. */
  baseUrl?: string;
  /** The key; else `BAY_API_KEY`. */
  apiKey?: string;
  /** Bounds each silence of the server, in seconds: 60. */
  timeoutS?: number;
  /** Bounds all waits between the attempts of one call, in seconds: 10. */
  retryS?: number;
  /** Sent with every call by HTTP, beside the client's own headers. */
  headers?: Record<string, string>;
}

export interface Config {
  url: string;
  apiKey: string | null;
  timeoutS: number;
  retryS: number;
  headers: Record<string, string>;
}

export function resolve(options: ClientOptions): Config {
  return {
    url: checkedUrl(options.baseUrl || environment("BAY_URL") || DEFAULT_URL),
    apiKey: checkedKey(options.apiKey || environment("BAY_API_KEY") || ""),
    timeoutS: options.timeoutS ?? 60,
    retryS: options.retryS ?? 10,
    headers: options.headers ?? {},
  };
}

/** The headers of every call. */
export function headersOf(config: Config): Record<string, string> {
  const own = { ...config.headers, "User-Agent": `bay-typescript/${VERSION}`, "Accept-Encoding": "identity" };
  return config.apiKey === null ? own : { ...own, Authorization: `Bearer ${config.apiKey}` };
}

interface Platform {
  process?: { env?: Record<string, string | undefined> };
  Deno?: { env?: { get(name: string): string | undefined } };
}

function environment(name: string): string | undefined {
  const platform = globalThis as Platform;
  return platform.process?.env ? platform.process.env[name] : platform.Deno?.env?.get(name);
}

function checkedUrl(text: string): string {
  const url = text.trim().replace(/\/+$/, "");
  const found = URL.canParse(url) ? new URL(url) : null;
  if (found === null || !/^https?:$/.test(found.protocol) || !/^https?:\/\//.test(url)) {
    const example = `give one such as ${DEFAULT_URL} (BAY_URL or baseUrl)`;
    throw new InvalidArgument(`${JSON.stringify(text)} is not the URL of a Bay server; ${example}`);
  }
  return url;
}

function checkedKey(text: string): string | null {
  const key = text.trim();
  if (/[^!-~]/.test(key)) {
    throw new InvalidArgument("the API key has invalid characters; check BAY_API_KEY");
  }
  return key || null;
}
