import { cleanup, render, screen } from "@testing-library/react";
import { afterEach, expect, test } from "vitest";
import { Answered } from "./states";

afterEach(cleanup);

function shown(data: string[] | undefined, error: unknown = null): string {
  const query = { data, error, refetch: () => undefined };
  const { container } = render(
    <Answered query={query} none="nothing yet">
      {(rows) => rows.join(" and ")}
    </Answered>,
  );
  return container.textContent ?? "";
}

test("an answer is shown, and an empty one by what there is to do", () => {
  expect(shown(["a", "b"])).toBe("a and b");
  cleanup();
  expect(shown([])).toBe("nothing yet");
});

test("while there is no answer the page says that it waits", () => {
  shown(undefined);
  expect(screen.getByRole("status")).toBeTruthy();
});

test("an error stands above what was answered before it, and alone where nothing was", () => {
  expect(shown(["a"], new Error("Bay is away"))).toMatch(/away.*a$/);
  cleanup();
  shown(undefined, new Error("Bay is away"));
  expect(screen.getByRole("alert").textContent).toContain("Bay is away");
  expect(screen.queryByRole("status")).toBeNull();
});
