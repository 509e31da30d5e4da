import { BayError, ConnectionFailed, type Exec, NotFound, OutputGone } from "bay-sandbox";
import { expect, test } from "vitest";
import { type Door, type Line, type Link, type Screen, Session } from "./session";

const EXEC = { id: "exec-1", state: "running" } as Exec;
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** A screen that shows at once, or only when `show` is called. */
class Shown implements Screen {
  rows = 24;
  cols = 80;
  text = "";
  resets = 0;
  waiting: (() => void)[] = [];

  constructor(private readonly atOnce = true) {}

  write(data: Uint8Array, done: () => void): void {
    const show = (): void => {
      this.text += new TextDecoder().decode(data);
      done();
    };
    if (this.atOnce) show();
    else this.waiting.push(show);
  }

  show(): void {
    for (const one of this.waiting.splice(0)) one();
  }

  reset(): void {
    this.text = "";
    this.resets += 1;
  }
}

/** A connection that gives `texts`, then ends as `last` says: an error, the exit, or nothing more. */
class Scripted implements Line {
  info = EXEC;
  exit: Exec | null = null;
  typed: string[] = [];
  sizes: [number, number][] = [];
  closed = false;
  private over = (): void => undefined;

  constructor(
    public offset: number,
    private readonly texts: string[],
    private readonly last: Error | Exec | null = null,
  ) {}

  async read(): Promise<{ data: Uint8Array } | null> {
    const text = this.texts.shift();
    if (text !== undefined) {
      this.offset += text.length;
      return { data: bytes(text) };
    }
    if (this.last instanceof Error) throw this.last;
    if (this.last) {
      this.exit = this.last;
      return null;
    }
    if (!this.closed)
      await new Promise<void>((resolve) => {
        this.over = resolve;
      });
    return null;
  }

  async write(data: string | Uint8Array): Promise<void> {
    this.typed.push(typeof data === "string" ? data : new TextDecoder().decode(data));
  }

  async resize(rows: number, cols: number): Promise<void> {
    this.sizes.push([rows, cols]);
  }

  close(): void {
    this.closed = true;
    this.over();
  }
}

/** Gives these connections in order, and remembers what was asked for. */
function doorTo(lines: (Scripted | Error)[]): Door & { asked: (number | "repaint")[] } {
  const asked: (number | "repaint")[] = [];
  const give = (what: number | "repaint"): Line => {
    asked.push(what);
    const line = lines.shift();
    if (line === undefined) throw new NotFound("the test has no more connections");
    if (line instanceof Error) throw line;
    return line;
  };
  return { asked, repaint: async () => give("repaint"), since: async (offset) => give(offset) };
}

const EXITED = { ...EXEC, state: "exited", exit_code: 3 } as Exec;
const broke = (): Error => new ConnectionFailed("the connection broke");
const noPause = async (): Promise<void> => undefined;

async function until(condition: () => boolean): Promise<void> {
  for (let turn = 0; turn < 1_000 && !condition(); turn += 1)
    await new Promise((resolve) => setTimeout(resolve));
  expect(condition()).toBe(true);
}

test("the screen comes first, then the output to the end, which says how the exec ended", async () => {
  const screen = new Shown();
  const links: Link[] = [];
  const door = doorTo([new Scripted(100, ["a", "b"], EXITED)]);
  await new Session(door, screen, (link) => links.push(link)).run();
  expect(screen.text).toBe("ab");
  expect(door.asked).toEqual(["repaint"]);
  expect(links.map(({ kind }) => kind)).toEqual(["connecting", "live", "ended"]);
  expect(links.at(-1)).toEqual({ kind: "ended", exec: EXITED });
});

test("a broken connection is said, and the next goes on behind the last byte that was shown", async () => {
  const screen = new Shown();
  const links: Link[] = [];
  const door = doorTo([
    new Scripted(100, ["abc"], broke()),
    broke(),
    broke(),
    new Scripted(103, ["def"], EXITED),
  ]);
  const pauses: number[] = [];
  const pause = async (ms: number): Promise<void> => void pauses.push(ms);
  await new Session(door, screen, (link) => links.push(link), pause).run();
  expect(door.asked).toEqual(["repaint", 103, 103, 103]);
  expect(screen.text).toBe("abcdef");
  expect(screen.resets).toBe(1);
  expect(pauses).toEqual([250, 500, 1_000]);
  expect(links.map(({ kind }) => kind)).toEqual([
    "connecting",
    "live",
    "broken",
    "broken",
    "broken",
    "live",
    "ended",
  ]);
  expect(links.at(-2)).toEqual({ kind: "live", again: true, skipped: false });
});

test("output that is no longer kept has the screen drawn anew, and that is said", async () => {
  const screen = new Shown();
  const links: Link[] = [];
  const gone = new OutputGone("output before 900 is gone");
  const door = doorTo([new Scripted(0, ["old"], broke()), gone, new Scripted(950, ["new"], EXITED)]);
  await new Session(door, screen, (link) => links.push(link), noPause).run();
  expect(door.asked).toEqual(["repaint", 3, "repaint"]);
  expect(screen.text).toBe("new");
  expect(links.at(-2)).toEqual({ kind: "live", again: true, skipped: true });
});

test("output beyond what may wait closes the connection, and goes on at its offset once all is shown", async () => {
  const screen = new Shown(false);
  const flood = new Scripted(0, ["aaaa", "bbbb", "cccc", "dddd", "eeee"]);
  const door = doorTo([flood, new Scripted(12, ["DDDD", "EEEE"], EXITED)]);
  const links: Link[] = [];
  const bounds = { waitingBytes: 8, showingBytes: 0 };
  const run = new Session(door, screen, (link) => links.push(link), noPause, bounds).run();
  await until(() => flood.closed);
  expect(door.asked).toEqual(["repaint"]);
  await until(() => {
    screen.show();
    return links.at(-1)?.kind === "ended";
  });
  await run;
  expect(door.asked).toEqual(["repaint", 12]);
  expect(screen.text).toBe("aaaabbbbccccDDDDEEEE");
  expect(links.some(({ kind }) => kind === "broken")).toBe(false);
});

test("nothing of the next connection is drawn before all of the one before is shown", async () => {
  const screen = new Shown(false);
  const door = doorTo([new Scripted(0, ["abc"], broke()), new Scripted(3, ["def"], EXITED)]);
  const run = new Session(door, screen, () => undefined, noPause).run();
  await until(() => screen.waiting.length > 0);
  expect(door.asked).toEqual(["repaint"]);
  screen.show();
  await until(() => screen.waiting.length > 0);
  screen.show();
  await run;
  expect(screen.text).toBe("abcdef");
});

test("keys are typed in their order, and nothing is typed late after a break", async () => {
  const line = new Scripted(0, []);
  const session = new Session(doorTo([line]), new Shown(), () => undefined);
  session.type("lost");
  void session.run();
  await until(() => {
    session.resize();
    return line.sizes.length > 0;
  });
  session.type("a");
  session.type(bytes("b"));
  await until(() => line.typed.length === 2);
  expect(line.typed).toEqual(["a", "b"]);
  session.stop();
  session.type("late");
  expect(line.closed).toBe(true);
  expect(line.typed).toEqual(["a", "b"]);
});

test("a size that changed while it connected is sent", async () => {
  const screen = new Shown();
  const line = new Scripted(0, []);
  const door: Door = {
    repaint: async () => {
      screen.rows = 40;
      return line;
    },
    since: async () => line,
  };
  const session = new Session(door, screen, () => undefined);
  void session.run();
  await until(() => line.sizes.length > 0);
  expect(line.sizes[0]).toEqual([40, 80]);
  session.stop();
});

test("a proxy that finds no Bay behind it is a break, which passes", async () => {
  const links: Link[] = [];
  const proxy = new BayError("answered HTTP 502 with text/html", { status: 502 });
  const door = doorTo([proxy, new Scripted(0, ["x"], EXITED)]);
  await new Session(door, new Shown(), (link) => links.push(link), noPause).run();
  expect(links.map(({ kind }) => kind)).toEqual(["connecting", "broken", "live", "ended"]);
});

test("an exec that Bay no longer knows is gone, and any other refusal is said", async () => {
  const links: Link[] = [];
  await new Session(doorTo([new NotFound("no exec")]), new Shown(), (link) => links.push(link)).run();
  expect(links.at(-1)?.kind).toBe("gone");
  await new Session(doorTo([new TypeError("defect")]), new Shown(), (link) => links.push(link)).run();
  expect(links.at(-1)?.kind).toBe("failed");
});

test("a session that is stopped says nothing more", async () => {
  const links: Link[] = [];
  const line = new Scripted(0, ["x"]);
  const session = new Session(doorTo([line]), new Shown(), (link) => links.push(link));
  const run = session.run();
  await until(() => links.length === 2);
  session.stop();
  await run;
  expect(links).toHaveLength(2);
});
