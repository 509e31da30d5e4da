import { render } from "@testing-library/react";
import { expect, test } from "vitest";
import Markdown, { safeHref } from "./markdown";

function shown(text: string): HTMLElement {
  return render(<Markdown text={text} />).container;
}

test("headings, lists, code, tables and emphasis are what they say", () => {
  const page = shown("# A\n\n- one\n- **two**\n\n```py\nx < 1\n```\n\n|a|b|\n|-|-|\n|1|2|\n\n3. c\n");
  expect(page.querySelector("h1")?.textContent).toBe("A");
  expect(page.querySelectorAll("ul > li")).toHaveLength(2);
  expect(page.querySelector("strong")?.textContent).toBe("two");
  expect(page.querySelector("pre code")?.textContent).toBe("x < 1\n");
  expect(page.querySelectorAll("td")).toHaveLength(2);
  expect(page.querySelector("ol")?.start).toBe(3);
});

test("HTML of the file is shown as text and makes no element", () => {
  const page = shown('<script>alert(1)</script>\n\n<img src=x onerror="alert(2)">\n\na <b onclick=x>b</b>');
  expect(page.querySelector("script, img, b, [onclick]")).toBeNull();
  expect(page.textContent).toContain("<script>alert(1)</script>");
});

test("links lead to http and https alone, in a page of their own", () => {
  const page = shown(
    "[a](https://example.com/x) [b](javascript:alert(1)) [c](data:text/html,x) [d](file:///etc/passwd) [e](/console)",
  );
  const links = [...page.querySelectorAll("a")];
  expect(links.map((link) => link.getAttribute("href"))).toEqual(["https://example.com/x"]);
  expect(links[0]?.rel).toBe("noreferrer");
  expect(links[0]?.target).toBe("_blank");
  expect(safeHref("JaVaScRiPt:alert(1)")).toBeNull();
  expect(safeHref("//evil.example")).toBeNull();
});

test("no picture is loaded", () => {
  const page = shown("![a cat](https://example.com/cat.png) ![x](javascript:alert(1))");
  expect(page.querySelector("img")).toBeNull();
  expect(page.textContent).toContain("a cat");
});

test("nesting deeper than anyone writes is left out and breaks nothing", () => {
  expect(shown(`${">".repeat(50)} x`).textContent).toContain("x");
  expect(shown(`${">".repeat(5_000)} x\n\nbehind`).textContent).toContain("behind");
});
