import { expect, test } from "vitest";
import { note, nothing } from "./watch";

test("a new file changes its folder, and a move both of them", () => {
  const changed = nothing();
  note(changed, { type: "created", path: "/workspace/a/b", is_dir: false });
  note(changed, { type: "moved", path: "/workspace/x", to: "/workspace/y/x", is_dir: false });
  expect([...changed.folders]).toEqual(["/workspace/a", "/workspace", "/workspace/y"]);
  expect([...changed.files]).toEqual(["/workspace/a/b", "/workspace/x", "/workspace/y/x"]);
  expect(changed.all).toBe(false);
});

test("a folder that is gone is looked at itself, beside the one that it was in", () => {
  const changed = nothing();
  note(changed, { type: "deleted", path: "/workspace/a", is_dir: true });
  expect([...changed.folders]).toEqual(["/workspace", "/workspace/a"]);
});

test("after lost events everything is looked at again", () => {
  const changed = nothing();
  note(changed, { type: "overflow" });
  expect(changed.all).toBe(true);
});
