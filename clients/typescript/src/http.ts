/** The HTTP client of one Bay: retries where they are safe, streams that reconnect, and Bay's errors. */

import { check, decode, failure } from "./answers.js";
import { isRepeatable, pieces, read, sizeOf, wholeBody, type Pieces } from "./bytes.js";
import { address, get, sandboxPath, type Call, type Query } from "./call.js";
import { headersOf, type Config } from "./config.js";
import { ConnectionFailed, HostError, InvalidArgument, NotFound, OutputGone, Timeout } from "./errors.js";
import { Leases } from "./leases.js";
import { Lines } from "./lines.js";
import { Attempts, now, sleep } from "./retries.js";
import { Silence } from "./silence.js";

/** A body that is sent whole is waited for as if it went at this rate: how much of it is gone nobody says. */
const SLOWEST_BYTES_PER_S = 64 << 10;

/** A place in a stream that is followed over as many connections as it takes. */
export interface Followed<Item> {
  ended: boolean;
  /** The message of the error when an answer ends before the stream does. */
  readonly early: string;
  /** The text between two of its lines; a line break unless set. */
  readonly separator?: string;
  /** The next request. */
  call(): Call;
  /** The new item of a line, undefined for one without. */
  accept(line: string): Item | undefined;
  /** An answer began. */
  opened?(response: Response): void;
  /** An answer came to its end. */
  closed?(): void;
  /** The reader was busy with an item for so long. */
  away?(seconds: number): void;
  /** For how long nothing may come; throws when the time of the reader is over. */
  silenceS?(): number | undefined;
  /** How long to wait before connecting again; throws `error` when that cannot help. */
  pause(error: unknown): number;
}

interface Page<Item> {
  items: Item[];
  has_more?: boolean;
  next_cursor?: string | null;
}

/** An answer while it arrives. */
export class Answer {
  constructor(
    readonly response: Response,
    private readonly silence: Silence,
    private readonly url: string,
  ) {
    silence.pause();
  }

  /** Its body, once. */
  async *chunks(): AsyncGenerator<Uint8Array, void> {
    const { body } = this.response;
    if (body === null) return;
    const data = read(body);
    try {
      for (let next = await this.next(data); next !== undefined; next = await this.next(data)) yield next;
    } finally {
      await data.return();
    }
  }

  /** All of it, as JSON. */
  async json<T>(): Promise<T> {
    this.silence.resume();
    try {
      return await decode<T>(this.response, this.url);
    } catch (error) {
      throw failure(error, this.url, this.silence.signal);
    } finally {
      this.silence.end();
    }
  }

  /** Leave it, read or not. */
  close(): void {
    this.silence.end();
    // One that is being read is cancelled by its reader.
    void this.response.body?.cancel().catch(() => undefined);
  }

  private async next(data: AsyncGenerator<Uint8Array, void>): Promise<Uint8Array | undefined> {
    this.silence.resume();
    try {
      return (await data.next()).value ?? undefined;
    } catch (error) {
      throw failure(error, this.url, this.silence.signal);
    } finally {
      this.silence.pause();
    }
  }
}

export class Http {
  readonly leases: Leases;

  constructor(readonly config: Config) {
    this.leases = new Leases((call) => this.json(call));
  }

  /** The JSON object that `call` answers. */
  async json<T>(call: Call): Promise<T> {
    return this.tried(call, async () => {
      const answer = await this.open(call);
      return answer.json<T>();
    });
  }

  /** The items of a list that is one page. */
  async all<Item>(call: Call): Promise<Item[]> {
    return (await this.json<Page<Item>>(call)).items;
  }

  /** The items of a list; each page is asked for after the one before. */
  async *paged<Item>(path: string, query: Query = {}, signal?: AbortSignal): AsyncGenerator<Item, void> {
    let cursor: string | null | undefined;
    do {
      const page: Page<Item> = await this.json({ ...get(path, { ...query, cursor }), signal });
      for (const item of page.items) {
        yield item;
        signal?.throwIfAborted();
      }
      cursor = page.has_more ? page.next_cursor : null;
    } while (cursor);
  }

  /** The answer to `call` while it arrives, asked for again until it begins. Close it. */
  async opened(call: Call): Promise<Answer> {
    return this.tried(call, () => this.open(call));
  }

  /** The items from `place` on, over as many connections as it takes, until it has ended. */
  async *followed<Item>(place: Followed<Item>): AsyncGenerator<Item, void> {
    while (!place.ended) yield* this.connection(place);
  }

  /** The answer to `call` while it arrives: one attempt, for a reader who knows where to go on. Close it. */
  async open(call: Call, silenceS = Infinity): Promise<Answer> {
    const longest = this.config.timeoutS + (call.waitS ?? 0) + sendingS(call);
    const silence = new Silence(this.config.url, Math.min(longest, silenceS), call.signal);
    const response = await this.send(call, silence);
    try {
      await check(response, this.config.url);
    } catch (error) {
      const found = failure(error, this.config.url, silence.signal);
      void response.body?.cancel().catch(() => undefined);
      silence.leave(found); // else what is not sent yet of an upload would go on
      throw found;
    }
    return new Answer(response, silence, this.config.url);
  }

  /** The answer of an app in a sandbox, whatever its status; Bay's own error in its place is thrown. */
  async ask(call: Call, timeoutS = this.config.timeoutS): Promise<Response> {
    return this.tried(call, async () => {
      const silence = new Silence(this.config.url, timeoutS + sendingS(call), call.signal);
      const response = await this.send(call, silence);
      silence.end();
      // Bay adds a policy to everything that an app answers by path, and to nothing of its own.
      const policy = response.headers.get("content-security-policy") ?? "";
      // A browser shows nothing of a redirect that it does not follow. It is the app's: Bay makes none here.
      if (response.type === "opaqueredirect") return response;
      if (!policy.includes("sandbox allow-scripts")) await check(response, this.config.url);
      return response;
    });
  }

  /** What an attempt gives, which is repeated as `call` may be. */
  async tried<T>(call: Call, attempt: () => Promise<T>): Promise<T> {
    const attempts = new Attempts(call, this.config.retryS);
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        await sleep(attempts.pause(error), call.signal);
      }
    }
  }

  private async send(call: Call, silence: Silence): Promise<Response> {
    const { content } = call;
    let upload: Upload | undefined;
    try {
      if (content !== undefined && !isRepeatable(content)) upload = new Upload(content, silence);
      return await fetch(this.config.url + address(call), this.request(call, silence, upload));
    } catch (error) {
      const found = failure(error, this.config.url, silence.signal);
      upload?.leave(); // a browser tells its page of a stream that fails after its request
      silence.leave(found);
      upload?.check();
      throw found;
    }
  }

  private request(call: Call, silence: Silence, upload?: Upload): RequestInit {
    const isJson = call.body !== undefined;
    const headers = { ...headersOf(this.config), ...(isJson && { "Content-Type": "application/json" }) };
    const body = isJson ? JSON.stringify(call.body) : (upload?.stream() ?? whole(call));
    const init = { method: call.method, headers: { ...headers, ...call.headers }, body };
    // Redirects would carry the key to an address that the caller did not choose.
    return { ...init, ...(upload && { duplex: "half" }), redirect: "manual", signal: silence.signal } as RequestInit;
  }

  /** The items of one connection; returns when a new one should be made. */
  private async *connection<Item>(place: Followed<Item>): AsyncGenerator<Item, void> {
    let connected = false;
    const call = place.call();
    try {
      const answer = await this.open(call, place.silenceS?.());
      connected = true;
      yield* accepted(answer, place, call.signal);
      place.closed?.();
      if (!place.ended) throw new ConnectionFailed(place.early);
    } catch (error) {
      if (!mayConnectAgain(error)) throw error;
      // A stream that is silent for a while looks like a timeout: ask again, it costs nothing.
      if (error instanceof Timeout) place.silenceS?.();
      if (!(error instanceof Timeout && connected)) await sleep(place.pause(error), call.signal);
    }
  }
}

async function* accepted<Item>(
  answer: Answer,
  place: Followed<Item>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Item, void> {
  const lines = new Lines(place.separator);
  try {
    place.opened?.(answer.response);
    for await (const data of answer.chunks()) {
      for (const line of lines.feed(data)) {
        const item = place.accept(line);
        if (item === undefined) continue;
        const given = now();
        yield item;
        place.away?.(now() - given);
        signal?.throwIfAborted();
      }
      if (place.ended) return;
    }
  } finally {
    answer.close();
  }
}

/** The body of `call` that is sent at once. */
function whole({ content }: Call): Uint8Array<ArrayBuffer> | Blob | null {
  return content !== undefined && isRepeatable(content) ? wholeBody(content) : null;
}

/** How long sending that body may take, in seconds. One that is streamed is looked after piece by piece. */
function sendingS({ content }: Call): number {
  return content !== undefined && isRepeatable(content) ? sizeOf(content) / SLOWEST_BYTES_PER_S : 0;
}

/** Throws InvalidArgument where a stream as a body is taken for the text "[object ReadableStream]". */
function checkStreams(): void {
  const init = { method: "POST", body: new ReadableStream(), duplex: "half" } as RequestInit;
  if (!new Request("http://bay.invalid", init).headers.has("content-type")) return;
  throw new InvalidArgument("this browser sends no stream; give the bytes, a text or a Blob");
}

function mayConnectAgain(error: unknown): boolean {
  return [NotFound, OutputGone, HostError, ConnectionFailed].some((kind) => error instanceof kind);
}

/**
 * The body of a request that is sent piece by piece. How long its source takes is not the server's silence.
 *
 * Node asks for more of it even after an answer has refused it: the end of the request is the end of it.
 */
class Upload {
  private failed: { error: unknown } | null = null;
  private left = false;
  private readonly data: AsyncGenerator<Uint8Array, void>;
  private aborted = (): void => this.leave();

  constructor(
    source: Pieces,
    private readonly silence: Silence,
  ) {
    checkStreams();
    this.data = pieces(source);
  }

  stream(): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.aborted = () => this.leave(controller);
        this.silence.signal.addEventListener("abort", this.aborted);
      },
      pull: (controller) => this.pull(controller),
      cancel: () => this.leave(),
    });
  }

  /** Throws the error of the source, when that is why the request failed. */
  check(): void {
    if (this.failed) throw this.failed.error;
  }

  private async pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    try {
      let next = await this.next();
      while (!next.done && !next.value.length) next = await this.next();
      if (this.left) return;
      if (!next.done) return controller.enqueue(next.value);
      this.forget();
      controller.close();
    } catch (error) {
      if (this.left) return;
      this.forget();
      this.failed = { error };
      controller.error(error);
    }
  }

  /** A signal outlives the upload, which it would keep in memory. */
  private forget(): void {
    this.silence.signal.removeEventListener("abort", this.aborted);
  }

  private async next(): Promise<IteratorResult<Uint8Array, void>> {
    this.silence.pause();
    try {
      return await this.data.next();
    } finally {
      this.silence.resume();
    }
  }

  /** Read no more of its source. */
  leave(controller?: ReadableStreamDefaultController<Uint8Array>): void {
    if (this.left) return;
    this.left = true;
    this.forget();
    controller?.error(this.silence.signal.reason);
    // The source may be in the middle of a piece, and may fail at its end: neither is waited for.
    void this.data.return().catch(() => undefined);
  }
}

/** The calls about one kind of thing of the key's owner. */
export class Noun {
  constructor(protected readonly http: Http) {}
}

/** The calls about one kind of thing of one sandbox, below its path. */
export class SandboxNoun {
  constructor(
    protected readonly http: Http,
    protected readonly sandboxId: string,
    private readonly noun: readonly string[] = [],
  ) {}

  protected path(...rest: string[]): string {
    return sandboxPath(this.sandboxId, ...this.noun, ...rest);
  }
}
