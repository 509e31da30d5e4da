/** The parts of a sandbox's page, in their order. Each is loaded when it is first looked at. */

import type { Sandbox } from "bay-sandbox";
import { LayoutDashboard } from "lucide-react";
import { type ComponentType, lazy, type ReactNode } from "react";

export interface TabEntry {
  /** Its place in the address. */
  path: string;
  /** Its name, a text of `words.ts`. */
  name: "overview";
  icon: ReactNode;
  Tab: ComponentType<{ box: Sandbox }>;
}

export const TABS: readonly TabEntry[] = [
  {
    path: "overview",
    name: "overview",
    icon: <LayoutDashboard aria-hidden />,
    Tab: lazy(() => import("./overview/tab")),
  },
];
