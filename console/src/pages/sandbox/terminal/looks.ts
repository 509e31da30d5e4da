/** How this browser's user wants terminals to look. */

import { useCallback, useMemo, useState } from "react";
import { readSetting, writeSetting } from "@/lib/settings";
import { useTheme } from "@/lib/theme";
import type { Looks } from "./xterm";

const SIZE = "terminal.size";
const READER = "terminal.screen_reader";
const USUAL = 13;
const SMALLEST = 9;
const LARGEST = 28;

function kept(): number {
  const size = Number(readSetting(SIZE) ?? USUAL);
  return size >= SMALLEST && size <= LARGEST ? size : USUAL;
}

export interface LooksChoice {
  looks: Looks;
  resize(by: number): void;
  toggleScreenReader(): void;
}

export function useLooks(): LooksChoice {
  const theme = useTheme();
  const [fontSize, setFontSize] = useState(kept);
  const [screenReader, setScreenReader] = useState(() => readSetting(READER) === "1");
  const looks = useMemo(() => ({ theme, fontSize, screenReader }), [theme, fontSize, screenReader]);
  const resize = useCallback(
    (by: number) => {
      const size = Math.min(LARGEST, Math.max(SMALLEST, fontSize + by));
      writeSetting(SIZE, String(size));
      setFontSize(size);
    },
    [fontSize],
  );
  const toggleScreenReader = useCallback(() => {
    writeSetting(READER, screenReader ? null : "1");
    setScreenReader(!screenReader);
  }, [screenReader]);
  return { looks, resize, toggleScreenReader };
}
