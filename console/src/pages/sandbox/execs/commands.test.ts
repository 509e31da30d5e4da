import { expect, test } from "vitest";
import { commandOf, EnvLine, envOf, ranFor } from "./commands";

test("lines of NAME=VALUE are an environment, and values may have anything", () => {
  expect(envOf("A=1\n\n# no\n export B=x=y z \nC=")).toEqual({ A: "1", B: "x=y z", C: "" });
  expect(() => envOf("A=1\nnot that")).toThrow(new EnvLine(2));
  expect(() => envOf("1A=1")).toThrow(EnvLine);
});

test("a command is shown as it was typed", () => {
  expect(commandOf(["sh", "-c", "ls | wc -l"])).toBe("ls | wc -l");
  expect(commandOf(["bash", "-c", "echo $0", "me"])).toBe("bash -c 'echo $0' me");
  expect(commandOf(["echo", "it's", "", "plain"])).toBe("echo 'it'\\''s' '' plain");
});

test("a running command has run until now, an ended one until its end", () => {
  const started_at = "2026-01-01T00:00:00Z";
  expect(ranFor({ started_at, ended_at: "2026-01-01T00:00:02.5Z" })).toBe(2.5);
  expect(ranFor({ started_at, ended_at: null }, Date.parse("2026-01-01T00:01:00Z"))).toBe(60);
  expect(ranFor({ started_at, ended_at: null }, 0)).toBe(0);
});
