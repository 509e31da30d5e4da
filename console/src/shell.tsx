/** The frame of all pages: navigation at the left, on a phone at the bottom; the state of the connection on top. */

import {
  BookOpen,
  Ellipsis,
  Languages,
  LogOut,
  Search,
  SunMoon,
  UserRound,
  Wifi,
  WifiOff,
} from "lucide-react";
import { type ReactNode, Suspense, useEffect, useState } from "react";
import { NavLink, Outlet, useLocation } from "react-router";
import icon from "./icon.svg";
import { setTheme, type ThemeChoice, useThemeChoice } from "./lib/theme";
import { LANGUAGES, type Language, language, setLanguage, useWords } from "./lib/words";
import { useLive } from "./live";
import type { PageEntry } from "./pages/pages";
import { useShownPages } from "./pages/shown";
import { pageWords } from "./pages/words";
import { Palette } from "./palette";
import { useMe, useSignIn } from "./sign_in";
import { Boundary } from "./ui/boundary";
import { cx } from "./ui/class_names";
import { Dialog } from "./ui/dialog";
import { Menu } from "./ui/menu";
import { Loading } from "./ui/states";
import { Tip } from "./ui/tip";

export function Shell(): ReactNode {
  const say = useWords(pageWords);
  const [palette, setPalette] = useState(false);
  const place = useLocation();
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.key.toLowerCase() !== "k" || !(event.metaKey || event.ctrlKey) || event.shiftKey) return;
      // A terminal has that key for itself.
      if (event.target instanceof Element && event.target.closest(".xterm")) return;
      event.preventDefault();
      setPalette((open) => !open);
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
  return (
    <div className="flex h-dvh flex-col overflow-hidden md:flex-row">
      <a
        href="#content"
        className="sr-only focus:not-sr-only focus:fixed focus:top-2 focus:left-2 focus:z-50 focus:rounded-lg focus:bg-panel focus:p-2"
      >
        {say("skip")}
      </a>
      <Bar openPalette={() => setPalette(true)} />
      <PhoneBar openPalette={() => setPalette(true)} />
      <div className="flex min-h-0 min-w-0 flex-1 flex-col pb-16 md:pb-0">
        <Connection />
        {/* A page scrolls in here, so that a list of thousands has a height, and makes no rows out of sight. */}
        <main
          id="content"
          tabIndex={-1}
          className="flex min-h-0 min-w-0 flex-1 flex-col overflow-y-auto outline-none"
        >
          <Boundary key={place.pathname}>
            <Suspense fallback={<Loading />}>
              <Outlet />
            </Suspense>
          </Boundary>
        </main>
      </div>
      <Palette open={palette} onOpenChange={setPalette} />
    </div>
  );
}

/** At the bottom of a phone there is room for so many pages; "More" has the others. */
const ON_PHONES = 3;

function usePages(): { own: PageEntry[]; operator: PageEntry[] } {
  const shown = useShownPages();
  return { own: shown.filter((page) => !page.forAdmins), operator: shown.filter((page) => page.forAdmins) };
}

function Bar({ openPalette }: { openPalette: () => void }): ReactNode {
  const say = useWords(pageWords);
  const { own, operator } = usePages();
  return (
    <nav
      aria-label={say("navigation")}
      className="sticky top-0 hidden h-dvh w-56 shrink-0 flex-col gap-1 border-r bg-panel p-3 md:flex"
    >
      <div className="flex items-center gap-2.5 px-2 pt-1 pb-3">
        <img src={icon} alt="" className="size-7" />
        <span className="text-lg font-semibold tracking-tight">Bay</span>
        <LiveDot />
      </div>
      <button
        type="button"
        onClick={openPalette}
        className="mb-2 flex min-h-9 items-center gap-2 rounded-lg border border-strong-line/60 px-2.5 text-sm text-muted hover:bg-raised"
      >
        <Search aria-hidden className="size-4" />
        <span className="flex-1 text-left">{say("palette")}</span>
        <kbd className="rounded bg-raised px-1.5 text-xs">
          {/Mac/.test(navigator.platform) ? "⌘K" : "Ctrl K"}
        </kbd>
      </button>
      <div className="min-h-0 flex-1 space-y-0.5 overflow-y-auto">
        {own.map((page) => (
          <PageLink key={page.path} page={page} />
        ))}
        {operator.length ? (
          <p className="px-2.5 pt-4 pb-1 text-xs font-medium text-muted">{say("operator")}</p>
        ) : null}
        {operator.map((page) => (
          <PageLink key={page.path} page={page} />
        ))}
      </div>
      <div className="flex items-center gap-1 border-t pt-2">
        <Account />
        <Tip text={say("docs")}>
          <a
            href="/docs/"
            target="_blank"
            rel="noreferrer"
            aria-label={say("docs")}
            className="inline-flex size-9 items-center justify-center rounded-lg text-muted hover:bg-raised hover:text-ink"
          >
            <BookOpen aria-hidden className="size-4.5" />
          </a>
        </Tip>
      </div>
    </nav>
  );
}

/** The same at the bottom of a phone: the first pages, and a sheet with the others. */
function PhoneBar({ openPalette }: { openPalette: () => void }): ReactNode {
  const say = useWords(pageWords);
  const { own, operator } = usePages();
  const [more, setMore] = useState(false);
  const others = [...own.slice(ON_PHONES), ...operator];
  const place = useLocation();
  const isOther = others.some((page) => place.pathname.startsWith(`/console/${page.path}`));
  const close = (): void => setMore(false);
  return (
    <nav
      aria-label={say("navigation")}
      className="fixed inset-x-0 bottom-0 z-30 grid auto-cols-fr grid-flow-col border-t bg-panel pb-[env(safe-area-inset-bottom)] md:hidden"
    >
      {own.slice(0, ON_PHONES).map((page) => (
        <PageLink key={page.path} page={page} />
      ))}
      <button type="button" onClick={openPalette} className={cx(ENTRY, "text-muted")}>
        <Search aria-hidden />
        <span className="max-w-full truncate">{say("goto")}</span>
      </button>
      <button
        type="button"
        aria-haspopup="dialog"
        onClick={() => setMore(true)}
        className={cx(ENTRY, isOther ? "font-semibold text-accent" : "text-muted")}
      >
        <Ellipsis aria-hidden />
        <span className="max-w-full truncate">{say("more")}</span>
      </button>
      <Dialog open={more} onOpenChange={setMore} title={say("more")}>
        <div className="grid grid-cols-3 gap-1">
          {others.map((page) => (
            <PageLink key={page.path} page={page} onClick={close} />
          ))}
        </div>
        <div className="mt-3 flex border-t pt-3">
          <Account />
        </div>
      </Dialog>
    </nav>
  );
}

const ENTRY =
  "flex min-h-14 min-w-0 flex-col items-center justify-center gap-0.5 rounded-lg px-1 text-xs md:min-h-9 md:flex-row md:justify-start md:gap-2.5 md:px-2.5 md:text-sm [&_svg]:size-4.5 [&_svg]:shrink-0";

function PageLink({ page, onClick }: { page: PageEntry; onClick?: () => void }): ReactNode {
  const say = useWords(pageWords);
  return (
    <NavLink
      to={`/console/${page.path}`}
      {...(onClick ? { onClick } : {})}
      className={({ isActive }) =>
        cx(
          ENTRY,
          isActive
            ? "font-semibold text-accent md:bg-accent-soft"
            : "text-muted hover:bg-raised hover:text-ink",
        )
      }
    >
      {page.icon}
      <span className="max-w-full truncate">{say(page.name)}</span>
    </NavLink>
  );
}

function Account(): ReactNode {
  const say = useWords(pageWords);
  const me = useMe();
  const { leave } = useSignIn();
  const theme = useThemeChoice();
  const themes: ThemeChoice[] = ["system", "light", "dark"];
  return (
    <Menu
      label={say("account", { owner: me.owner, scope: me.scope })}
      trigger={
        <button
          type="button"
          className="flex min-h-9 min-w-0 flex-1 items-center gap-2 rounded-lg px-2 text-sm text-muted hover:bg-raised hover:text-ink"
        >
          <UserRound aria-hidden className="size-4.5 shrink-0" />
          <span className="truncate">{say("account", { owner: me.owner, scope: me.scope })}</span>
        </button>
      }
      items={[
        ...themes.map((name) => ({
          label: say(name),
          icon: <SunMoon aria-hidden />,
          checked: theme === name,
          onSelect: () => setTheme(name),
        })),
        "line",
        ...(Object.entries(LANGUAGES) as [Language, string][]).map(([code, name]) => ({
          label: name,
          icon: <Languages aria-hidden />,
          checked: language() === code,
          onSelect: () => setLanguage(code),
        })),
        "line",
        {
          label: say("docs"),
          icon: <BookOpen aria-hidden />,
          onSelect: () => void window.open("/docs/", "_blank", "noreferrer"),
        },
        { label: say("signOut"), icon: <LogOut aria-hidden />, onSelect: () => void leave() },
      ]}
    />
  );
}

function LiveDot(): ReactNode {
  const say = useWords(pageWords);
  const { state } = useLive();
  return (
    <Tip text={say(state)}>
      <span
        role="img"
        aria-label={say(state)}
        className={cx(
          "ml-auto size-2.5 rounded-full",
          state === "live" || state === "again" ? "bg-good" : "animate-pulse bg-warn",
        )}
      />
    </Tip>
  );
}

function Connection(): ReactNode {
  const say = useWords(pageWords);
  const { state } = useLive();
  return (
    <div role="status">
      {state === "broken" ? (
        <p className="flex items-center gap-2 border-b border-warn/40 bg-warn-soft px-4 py-2 text-sm text-warn">
          <WifiOff aria-hidden className="size-4 shrink-0" />
          {say("broken")}
        </p>
      ) : null}
      {state === "again" ? (
        <p className="flex items-center gap-2 border-b border-good/40 bg-good-soft px-4 py-2 text-sm text-good">
          <Wifi aria-hidden className="size-4 shrink-0" />
          {say("again")}
        </p>
      ) : null}
    </div>
  );
}
