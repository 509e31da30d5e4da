import { expect, test } from "vitest";
import { draft, draftOf, isNetwork, refusedNames, ruleOf } from "./rules";

test("a rule comes out of the form as it went in, with its header", () => {
  const inject = { header: "Authorization", secret: "token", format: "Bearer {}" };
  const rule = {
    action: "allow" as const,
    domain: "*.example.com",
    ports: [443, "8000-8100"],
    protocol: "tcp" as const,
    inject,
  };
  expect(ruleOf(draftOf(rule))).toEqual(rule);
  expect(ruleOf(draftOf({ action: "deny", cidr: "fd00::/8" }))).toEqual({ action: "deny", cidr: "fd00::/8" });
});

test("addresses are networks, and names that begin with digits are names", () => {
  expect(["10.0.0.0/8", "93.184.216.34", "::1", "2001:db8::/32"].map(isNetwork)).toEqual([
    true,
    true,
    true,
    true,
  ]);
  expect(["1.example.com", "*", "example.com"].map(isNetwork)).toEqual([false, false, false]);
});

test("ports that are no ports are sent as they are, so that the server names them", () => {
  expect(ruleOf(draft({ target: "example.com", ports: "443 http" })).ports).toEqual([443, "http"]);
});

test("a refused name stands once for all types of record, with the latest first", () => {
  const asked = { reason: "policy", rule: null, first_at: "2026-08-01T10:00:00Z" };
  const found = refusedNames([
    { ...asked, name: "a.example", type: "A", count: 2, last_at: "2026-08-01T10:00:01Z" },
    { ...asked, name: "b.example", type: "A", count: 1, last_at: "2026-08-01T10:00:02Z" },
    { ...asked, name: "a.example", type: "AAAA", count: 3, last_at: "2026-08-01T10:00:03Z" },
    { ...asked, name: "a.example", type: "A", reason: "private", count: 1, last_at: "2026-08-01T10:00:00Z" },
  ]);
  expect(found.map(({ name, types, reason, count }) => [name, types, reason, count])).toEqual([
    ["a.example", "A, AAAA", "policy", 5],
    ["b.example", "A", "policy", 1],
    ["a.example", "A", "private", 1],
  ]);
});
