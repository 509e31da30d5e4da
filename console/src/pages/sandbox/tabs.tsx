/** The parts of a sandbox's page, in their order. Each is loaded when it is first looked at. */

import type { Sandbox } from "bay-sandbox";
import {
  Cog,
  FolderOpen,
  History,
  LayoutDashboard,
  ListTree,
  Milestone,
  NotebookPen,
  Plug,
  ShieldCheck,
  SquareTerminal,
} from "lucide-react";
import { type ComponentType, lazy, type ReactNode } from "react";

export interface TabEntry {
  /** Its place in the address. */
  path: string;
  /** Its name, a text of `words.ts`. */
  name:
    | "overview"
    | "terminal"
    | "execs"
    | "python"
    | "files"
    | "checkpoints"
    | "ports"
    | "services"
    | "network"
    | "events";
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
  {
    path: "terminal",
    name: "terminal",
    icon: <SquareTerminal aria-hidden />,
    Tab: lazy(() => import("./terminal/tab")),
  },
  { path: "execs", name: "execs", icon: <ListTree aria-hidden />, Tab: lazy(() => import("./execs/tab")) },
  {
    path: "python",
    name: "python",
    icon: <NotebookPen aria-hidden />,
    Tab: lazy(() => import("./python/tab")),
  },
  {
    path: "files",
    name: "files",
    icon: <FolderOpen aria-hidden />,
    Tab: lazy(() => import("./files/tab")),
  },
  {
    path: "checkpoints",
    name: "checkpoints",
    icon: <Milestone aria-hidden />,
    Tab: lazy(() => import("./checkpoints/tab")),
  },
  { path: "ports", name: "ports", icon: <Plug aria-hidden />, Tab: lazy(() => import("./ports/tab")) },
  {
    path: "services",
    name: "services",
    icon: <Cog aria-hidden />,
    Tab: lazy(() => import("./services/tab")),
  },
  {
    path: "network",
    name: "network",
    icon: <ShieldCheck aria-hidden />,
    Tab: lazy(() => import("./network/tab")),
  },
  { path: "events", name: "events", icon: <History aria-hidden />, Tab: lazy(() => import("./events/tab")) },
];
