import { expect, test } from "vitest";
import { filtersOf, questionOf } from "./filters";

test("filters come from the address, without spaces, empty ones and what is none", () => {
  const query = new URLSearchParams("owner=%20ann%20&path=&status=4xx&order=oldest&range=hour&x=1");
  expect(filtersOf(query)).toEqual({ owner: "ann", status: "4xx", range: "hour" });
});

test("a range of time that does not exist is no filter", () => {
  expect(filtersOf(new URLSearchParams("range=toString"))).toEqual({});
});

test("a range of time is a beginning when it is asked for", () => {
  const now = Date.parse("2030-01-02T00:00:00Z");
  expect(questionOf({ method: "POST", range: "day" }, now)).toEqual({
    method: "POST",
    since: "2030-01-01T00:00:00.000Z",
  });
  expect(questionOf({ method: "POST" }, now)).toEqual({ method: "POST" });
});
