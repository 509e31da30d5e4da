import { ConnectionFailed, NotFound, OutputGone } from "bay-sandbox";
import { expect, test } from "vitest";
import { type Chunk, followOutput, type Progress } from "./follow";

const chunk = (offset: number, text: string): Chunk => ({ offset, data: new TextEncoder().encode(text) });

/** Follow what these connections give; each is its chunks and then an error, if it has one. */
async function followed(
  connections: (Chunk | Error)[][],
): Promise<{ text: string; told: Progress[]; asked: unknown[] }> {
  const done = { text: "", told: [] as Progress[], asked: [] as unknown[] };
  async function* open(since: number | undefined): AsyncGenerator<Chunk> {
    done.asked.push(since);
    for (const one of connections.shift() ?? []) {
      if (one instanceof Error) throw one;
      yield one;
    }
  }
  await followOutput(
    open,
    async (one) => {
      done.text += new TextDecoder().decode(one.data);
    },
    (progress) => done.told.push(progress),
    async () => undefined,
    new AbortController().signal,
  );
  return done;
}

test("output is shown in order until its end", async () => {
  const done = await followed([[chunk(0, "ab"), chunk(2, "c")]]);
  expect(done.text).toBe("abc");
  expect(done.told.map(({ kind }) => kind)).toEqual(["reading", "end"]);
});

test("output that begins late says how much before it is gone", async () => {
  const done = await followed([[chunk(100, "late")]]);
  expect(done.told).toContainEqual({ kind: "missing", bytes: 100 });
});

test("after a break it goes on behind the last byte, and no byte is doubled", async () => {
  const done = await followed([[chunk(0, "ab"), new ConnectionFailed("broke")], [chunk(2, "c")]]);
  expect(done.asked).toEqual([undefined, 2]);
  expect(done.text).toBe("abc");
  expect(done.told.map(({ kind }) => kind)).toEqual(["reading", "broken", "reading", "end"]);
});

test("bytes that were dropped during a break are counted", async () => {
  const gone = new OutputGone("output before 10 is gone");
  const done = await followed([[chunk(0, "ab"), new ConnectionFailed("broke")], [gone], [chunk(10, "x")]]);
  expect(done.asked).toEqual([undefined, 2, undefined]);
  expect(done.told).toContainEqual({ kind: "missing", bytes: 8 });
});

test("output of which nothing is kept is gone, and a refusal is said once", async () => {
  expect((await followed([[new OutputGone("gone")]])).told.at(-1)?.kind).toBe("gone");
  expect((await followed([[new NotFound("no exec")]])).told.at(-1)?.kind).toBe("failed");
});
