import { expect, test } from "vitest";
import { parseTable, separatorOf } from "./csv";

const rows = (text: string, separator = ","): string[][] => parseTable(text, separator, 100).rows;

test("fields are between separators, and rows between line ends of both kinds", () => {
  expect(rows("a,b\r\n1,2\n3,")).toEqual([
    ["a", "b"],
    ["1", "2"],
    ["3", ""],
  ]);
  expect(rows("a\tb\n", "\t")).toEqual([["a", "b"]]);
  expect(rows("")).toEqual([]);
  expect(rows("\n1")).toEqual([[""], ["1"]]);
});

test("a quoted field has separators, line ends and quotes in it", () => {
  expect(rows('"a,1","b\nc","say ""hi"""\nx')).toEqual([["a,1", "b\nc", 'say "hi"'], ["x"]]);
});

test("a quote that never ends takes what is left and no longer", () => {
  expect(rows('a,"b\nc')).toEqual([["a", "b\nc"]]);
});

test("markup in a field stays text", () => {
  expect(rows("<script>alert(1)</script>,x")).toEqual([["<script>alert(1)</script>", "x"]]);
});

test("no more rows are read than asked for, and that is said", () => {
  expect(parseTable("1\n2\n3\n", ",", 2)).toEqual({ rows: [["1"], ["2"]], isCut: true });
  expect(parseTable("1\n2\n", ",", 2).isCut).toBe(false);
});

test("the separator is the most frequent of the first line", () => {
  expect(separatorOf("a;b;c,d\n1,2,3,4,5")).toBe(";");
  expect(separatorOf('"a,b,c"\t2')).toBe("\t");
  expect(separatorOf("alone")).toBe(",");
});
