/** The pages that the navigation and the command palette lead to, in their order. */

import { Boxes, Disc3, KeyRound, Layers, LayoutTemplate, ScrollText, Webhook } from "lucide-react";
import { type ComponentType, lazy, type ReactNode } from "react";
import { ListPage } from "./list/page";
import type { pageWords } from "./words";

export interface PageEntry {
  /** Below `/console/`. */
  path: string;
  /** Its name, a text of `src/pages/words.ts`. */
  name: keyof typeof pageWords.en & string;
  icon: ReactNode;
  Page: ComponentType;
  forAdmins?: boolean;
}

export const PAGES: readonly PageEntry[] = [
  { path: "sandboxes", name: "sandboxes", icon: <Boxes aria-hidden />, Page: ListPage },
  {
    path: "images",
    name: "images",
    icon: <Disc3 aria-hidden />,
    Page: lazy(() => import("./images/page")),
  },
  {
    path: "templates",
    name: "templates",
    icon: <LayoutTemplate aria-hidden />,
    Page: lazy(() => import("./templates/page")),
  },
  {
    path: "webhooks",
    name: "webhooks",
    icon: <Webhook aria-hidden />,
    Page: lazy(() => import("./webhooks/page")),
  },
  {
    path: "operator/pools",
    name: "pools",
    icon: <Layers aria-hidden />,
    Page: lazy(() => import("./operator/pools/page")),
    forAdmins: true,
  },
  {
    path: "operator/keys",
    name: "keys",
    icon: <KeyRound aria-hidden />,
    Page: lazy(() => import("./operator/keys/page")),
    forAdmins: true,
  },
  {
    path: "operator/audit",
    name: "audit",
    icon: <ScrollText aria-hidden />,
    Page: lazy(() => import("./operator/audit/page")),
    forAdmins: true,
  },
];
