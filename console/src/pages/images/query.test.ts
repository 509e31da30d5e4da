import { expect, test } from "vitest";
import { partOf, shortRef } from "./query";

test("a reference is shown without what every client adds", () => {
  expect(shortRef("docker.io/library/python:3.13")).toBe("python:3.13");
  expect(shortRef("docker.io/grafana/k6:1")).toBe("grafana/k6:1");
  expect(shortRef("ghcr.io/docker.io/library/x")).toBe("ghcr.io/docker.io/library/x");
});

test("a pull has come as far as its bytes, else as its layers, and never beyond its end", () => {
  const step = "fetching" as const;
  const of = (progress: Record<string, number | null>): number | null =>
    partOf({ progress: { step, bytes_done: 0, layers_done: 0, ...progress } });
  expect(partOf({ progress: null })).toBeNull();
  expect(of({})).toBeNull();
  expect(of({ bytes_done: 5, bytes_total: 20 })).toBe(0.25);
  expect(of({ bytes_done: 30, bytes_total: 20 })).toBe(1);
  expect(of({ bytes_total: null, layers_done: 1, layers_total: 2 })).toBe(0.5);
});
