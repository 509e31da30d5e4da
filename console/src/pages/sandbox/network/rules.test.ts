import { expect, test } from "vitest";
import { draft, draftOf, isNetwork, ruleOf } from "./rules";

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
