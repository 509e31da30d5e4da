/** Events of all sandboxes or of one, past and live. */

import { get, type Call, type CallOptions } from "./call.js";
import { BayError } from "./errors.js";
import type { Followed, Http } from "./http.js";
import { jsonOrUndefined } from "./lines.js";
import { Patience } from "./retries.js";
import type { Event } from "./types.js";

const LAST = "sandbox.deleted";

export interface EventOptions extends CallOptions {
  /** The id of the event to go on behind; `"0"` begins with the oldest still kept. */
  since?: string;
  /** False: what is kept now, without the future. */
  follow?: boolean;
  /** Called whenever the stream of live events stands: all that happens from then on will come. */
  onOpen?: () => void;
}

/** The events at one path of the API. Live ones come across reconnects, and end only with the one sandbox. */
export function events(
  http: Http,
  path: string,
  { since, follow = true, onOpen, signal }: EventOptions,
  oneSandbox: boolean,
): AsyncGenerator<Event, void> {
  if (!follow) return http.paged<Event>(path, { limit: 200, cursor: since }, signal);
  return http.followed(new EventPlace(path, since, http.config.retryS, oneSandbox, onOpen, signal));
}

class EventPlace implements Followed<Event> {
  readonly separator = "\n\n";
  readonly early = "the events ended early";
  ended = false;
  private stands = false;
  private readonly patience: Patience;

  constructor(
    private readonly path: string,
    private lastId: string | undefined,
    retryS: number,
    private readonly oneSandbox: boolean,
    private readonly onOpen: (() => void) | undefined,
    private readonly signal: AbortSignal | undefined,
  ) {
    this.patience = new Patience(retryS);
  }

  call(): Call {
    return { ...get(this.path, { follow: true, since: this.lastId }), signal: this.signal };
  }

  opened(response: Response): void {
    this.stands = false;
    this.ended = response.status === 204; // the sandbox was deleted, and all its events were read
  }

  /** The event of a block of the stream; undefined for one with only a position, or a sign of life. */
  accept(block: string): Event | undefined {
    const fields = new Map(block.split("\n").map(field));
    this.lastId = fields.get("id") ?? this.lastId;
    if (!this.stands && fields.has("id")) {
      this.stands = true; // the first block is the place where it stands
      this.onOpen?.();
    }
    const data = fields.get("data");
    if (data !== undefined || !fields.has("id")) this.patience.renew();
    if (data === undefined) return undefined;
    const event = eventOf(data);
    this.ended = this.oneSandbox && event.type === LAST;
    return event;
  }

  pause(error: unknown): number {
    return this.patience.pause(error);
  }
}

function field(line: string): [string, string] {
  const at = line.indexOf(":");
  return at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
}

/** The event that a JSON text says. */
export function eventOf(text: string): Event {
  const found = jsonOrUndefined(text);
  if (typeof found === "object" && found !== null) return found as Event;
  throw new BayError(`${JSON.stringify(text.slice(0, 40))} is not an event of Bay`);
}
