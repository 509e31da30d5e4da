import { expect, test } from "vitest";
import { graphOf, NOW, pathOf } from "./graph";

test("checkpoints that come one from the other are one line", () => {
  const graph = graphOf([
    { id: NOW, parent: "b" },
    { id: "b", parent: "a" },
    { id: "a", parent: null },
  ]);
  expect(graph.lanes).toEqual([0, 0, 0]);
  expect(graph.width).toBe(1);
  expect(graph.edges.map((edge) => [edge.fromRow, edge.toRow])).toEqual([
    [0, 1],
    [1, 2],
  ]);
});

test("after a restore the other branch has a lane of its own, and both end at their parent", () => {
  // a, then b and c of it; then a was restored, and d made.
  const graph = graphOf([
    { id: NOW, parent: "d" },
    { id: "d", parent: "a" },
    { id: "c", parent: "b" },
    { id: "b", parent: "a" },
    { id: "a", parent: null },
  ]);
  expect(graph.lanes).toEqual([0, 0, 1, 1, 0]);
  expect(graph.width).toBe(2);
  expect(graph.edges.filter((edge) => edge.toRow === 4)).toEqual([
    { fromRow: 1, fromLane: 0, toRow: 4, toLane: 0, lane: 0 },
    { fromRow: 3, fromLane: 1, toRow: 4, toLane: 0, lane: 1 },
  ]);
});

test("a lane that has ended is taken by the next branch", () => {
  const graph = graphOf([
    { id: "d", parent: null },
    { id: "c", parent: null },
    { id: "b", parent: "a" },
    { id: "a", parent: null },
  ]);
  expect(graph.lanes).toEqual([0, 0, 0, 0]);
});

test("a parent that is elsewhere or was pulled in has no line", () => {
  expect(graphOf([{ id: "a", parent: "of another sandbox" }]).edges).toEqual([]);
  expect(
    graphOf([
      { id: "a", parent: "b" },
      { id: "b", parent: "a" },
    ]).edges,
  ).toHaveLength(1);
});

test("a line within a lane is straight, and one to another lane bends before its end", () => {
  const x = (lane: number): number => lane * 10;
  const y = (row: number): number => row * 100;
  expect(pathOf({ fromRow: 0, fromLane: 0, toRow: 2, toLane: 0, lane: 0 }, x, y)).toBe("M0 0V200");
  expect(pathOf({ fromRow: 0, fromLane: 1, toRow: 2, toLane: 0, lane: 1 }, x, y)).toBe(
    "M10 0V135C10 200 0 135 0 200",
  );
});
