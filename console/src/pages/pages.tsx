/** The pages that the navigation and the command palette lead to, in their order. */

import {
  Boxes,
  Disc3,
  Gauge,
  KeyRound,
  Layers,
  LayoutTemplate,
  ScrollText,
  Server,
  Settings,
  Webhook,
} from "lucide-react";
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
  /** Only where several Bays share a database. */
  forReplicas?: boolean;
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
    path: "operator/host",
    name: "host",
    icon: <Gauge aria-hidden />,
    Page: lazy(() => import("./operator/host/page")),
    forAdmins: true,
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
  {
    path: "operator/replicas",
    name: "replicas",
    icon: <Server aria-hidden />,
    Page: lazy(() => import("./operator/replicas/page")),
    forAdmins: true,
    forReplicas: true,
  },
  {
    path: "operator/settings",
    name: "settings",
    icon: <Settings aria-hidden />,
    Page: lazy(() => import("./operator/settings/page")),
    forAdmins: true,
  },
];
