/** The frame of all pages: navigation at the left, on a phone at the bottom; the state of the connection on top. */

import { BookOpen, Languages, LogOut, Search, SunMoon, UserRound, WifiOff } from "lucide-react";
import { type ReactNode, Suspense, useEffect, useState } from "react";
import { NavLink, Outlet, useLocation } from "react-router";
import icon from "./icon.svg";
import { setTheme, type ThemeChoice, useThemeChoice } from "./lib/theme";
import { LANGUAGES, type Language, language, setLanguage, useWords } from "./lib/words";
import { useLive } from "./live";
import { PAGES } from "./pages/pages";
import { pageWords } from "./pages/words";
import { Palette } from "./palette";
import { useMe, useSignIn } from "./sign_in";
import { Boundary } from "./ui/boundary";
import { IconButton } from "./ui/button";
import { cx } from "./ui/class_names";
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
    <div className="flex min-h-dvh flex-col md:flex-row">
      <a
        href="#content"
        className="sr-only focus:not-sr-only focus:fixed focus:top-2 focus:left-2 focus:z-50 focus:rounded-lg focus:bg-panel focus:p-2"
      >
        {say("skip")}
      </a>
      <Bar openPalette={() => setPalette(true)} />
      <div className="flex min-w-0 flex-1 flex-col pb-16 md:pb-0">
        <Connection />
        <main id="content" tabIndex={-1} className="flex min-w-0 flex-1 flex-col outline-none">
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

function Bar({ openPalette }: { openPalette: () => void }): ReactNode {
  const say = useWords(pageWords);
  const me = useMe();
  const own = PAGES.filter((page) => !page.forAdmins);
  const operator = me.scope === "admin" ? PAGES.filter((page) => page.forAdmins) : [];
  return (
    <nav
      aria-label={say("navigation")}
      className="fixed inset-x-0 bottom-0 z-30 flex border-t bg-panel md:sticky md:top-0 md:h-dvh md:w-56 md:shrink-0 md:flex-col md:gap-1 md:border-t-0 md:border-r md:p-3"
    >
      <div className="hidden items-center gap-2.5 px-2 pt-1 pb-3 md:flex">
        <img src={icon} alt="" className="size-7" />
        <span className="text-lg font-semibold tracking-tight">Bay</span>
        <LiveDot />
      </div>
      <button
        type="button"
        onClick={openPalette}
        className="hidden min-h-9 items-center gap-2 rounded-lg border border-strong-line/60 px-2.5 text-sm text-muted hover:bg-raised md:mb-2 md:flex"
      >
        <Search aria-hidden className="size-4" />
        <span className="flex-1 text-left">{say("palette")}</span>
        <kbd className="rounded bg-raised px-1.5 text-xs">
          {/Mac/.test(navigator.platform) ? "⌘K" : "Ctrl K"}
        </kbd>
      </button>
      <div className="flex min-w-0 flex-1 overflow-x-auto md:block md:space-y-0.5 md:overflow-y-auto">
        {own.map((page) => (
          <PageLink key={page.path} path={page.path} name={say(page.name)} icon={page.icon} />
        ))}
        {operator.length ? (
          <p className="hidden px-2.5 pt-4 pb-1 text-xs font-medium text-muted md:block">{say("operator")}</p>
        ) : null}
        {operator.map((page) => (
          <PageLink key={page.path} path={page.path} name={say(page.name)} icon={page.icon} />
        ))}
      </div>
      <div className="flex items-center gap-1 px-1 md:border-t md:px-0 md:pt-2">
        <IconButton label={say("palette")} className="md:hidden" onClick={openPalette}>
          <Search aria-hidden />
        </IconButton>
        <Account />
        <Tip text={say("docs")}>
          <a
            href="/docs/"
            target="_blank"
            rel="noreferrer"
            aria-label={say("docs")}
            className="hidden size-9 items-center justify-center rounded-lg text-muted hover:bg-raised hover:text-ink md:inline-flex"
          >
            <BookOpen aria-hidden className="size-4.5" />
          </a>
        </Tip>
      </div>
    </nav>
  );
}

function PageLink({ path, name, icon }: { path: string; name: string; icon: ReactNode }): ReactNode {
  return (
    <NavLink
      to={`/console/${path}`}
      className={({ isActive }) =>
        cx(
          "flex min-h-14 min-w-18 flex-1 flex-col items-center justify-center gap-0.5 rounded-lg px-2 text-xs md:min-h-9 md:flex-row md:justify-start md:gap-2.5 md:px-2.5 md:text-sm [&_svg]:size-4.5",
          isActive
            ? "font-semibold text-accent md:bg-accent-soft"
            : "text-muted hover:bg-raised hover:text-ink",
        )
      }
    >
      {icon}
      <span className="truncate">{name}</span>
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
          className="flex min-h-9 min-w-9 items-center justify-center gap-2 rounded-lg px-2 text-sm text-muted hover:bg-raised hover:text-ink md:flex-1 md:justify-start"
        >
          <UserRound aria-hidden className="size-4.5 shrink-0" />
          <span className="sr-only truncate md:not-sr-only">
            {say("account", { owner: me.owner, scope: me.scope })}
          </span>
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
          state === "live" ? "bg-good" : "animate-pulse bg-warn",
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
    </div>
  );
}
