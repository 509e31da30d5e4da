import { expect, test } from "vitest";

test("a style element that a library makes has the nonce of the page, and no other element has it", async () => {
  document.head.innerHTML = '<meta property="csp-nonce" nonce="abc">';
  const meta = document.querySelector("meta");
  if (meta) meta.nonce = "abc"; // as browsers have it from the attribute
  await import("./nonce");
  expect(document.createElement("style").getAttribute("nonce")).toBe("abc");
  expect(document.createElement("STYLE").getAttribute("nonce")).toBe("abc");
  expect(document.createElement("script").getAttribute("nonce")).toBeNull();
});
