import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { onWake } from "./wake";

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

test("a clock that jumps is a computer that slept, and a timer that is late is none", () => {
  let woken = 0;
  const stop = onWake(() => {
    woken += 1;
  });
  vi.advanceTimersByTime(10 * 60_000);
  expect(woken).toBe(0);
  vi.setSystemTime(Date.now() + 60_000);
  vi.advanceTimersByTime(5_000);
  expect(woken).toBe(0);
  vi.setSystemTime(Date.now() + 3_600_000);
  vi.advanceTimersByTime(5_000);
  vi.advanceTimersByTime(5_000);
  expect(woken).toBe(1);
  stop();
  vi.setSystemTime(Date.now() + 3_600_000);
  vi.advanceTimersByTime(5_000);
  expect(woken).toBe(1);
});

test("a page that was frozen, and a network that is back, wake it once each", () => {
  let woken = 0;
  const stop = onWake(() => {
    woken += 1;
  });
  vi.setSystemTime(Date.now() + 3_600_000);
  document.dispatchEvent(new Event("resume"));
  vi.advanceTimersByTime(5_000);
  expect(woken).toBe(1);
  window.dispatchEvent(new Event("online"));
  expect(woken).toBe(2);
  stop();
  document.dispatchEvent(new Event("resume"));
  window.dispatchEvent(new Event("online"));
  expect(woken).toBe(2);
});
