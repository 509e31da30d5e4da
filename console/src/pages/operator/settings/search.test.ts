import type { SettingInForce } from "bay-sandbox";
import { expect, test } from "vitest";
import { lineOf, wantedSettings } from "./search";

function setting(changes: Partial<SettingInForce>): SettingInForce {
  return {
    name: "port",
    value: 8700,
    is_secret: false,
    is_set: true,
    origin: "default",
    description: "port to listen on",
    ...changes,
  };
}

test("a value is one line", () => {
  expect(lineOf({ value: null })).toBe("");
  expect(lineOf({ value: false })).toBe("false");
  expect(lineOf({ value: ["a", { b: 1 }] })).toBe('a, {"b":1}');
  expect(lineOf({ value: { a: 1 } })).toBe('{"a":1}');
  expect(lineOf({ value: [] })).toBe("");
});

test("each word of the search is somewhere in the setting, and defaults may be left out", () => {
  const all = [setting({}), setting({ name: "log_level", value: "debug", origin: "file", description: "" })];
  const names = (text: string, isSet = false): string[] =>
    wantedSettings(all, text, isSet).map((one) => one.name);
  expect(names("")).toEqual(["port", "log_level"]);
  expect(names(" LISTEN 8700 ")).toEqual(["port"]);
  expect(names("port debug")).toEqual([]);
  expect(names("", true)).toEqual(["log_level"]);
});
