import type { Sandbox } from "bay-sandbox";
import { EllipsisVertical, Moon, Pause, Play, Square, Trash2 } from "lucide-react";
import { memo, type ReactNode } from "react";
import { Link } from "react-router";
import { useWords } from "@/lib/words";
import { shortRef } from "@/pages/images/query";
import { useSavesMemory } from "@/profiles";
import { type Acts, actsOf, called, startWord } from "@/sandboxes";
import { IconButton } from "@/ui/button";
import { cx } from "@/ui/class_names";
import { Menu } from "@/ui/menu";
import { Moment } from "@/ui/moment";
import { StateBadge, shownState } from "@/ui/state_badge";
import { listWords } from "./words";

interface Given {
  box: Sandbox;
  at: number;
  top: number;
  height: number;
  leaving: boolean;
  /** null: the key may only read. */
  chosen: boolean | null;
  onChoose(id: string): void;
  onLabel(label: string): void;
  acts: Acts;
}

/** One sandbox: eight columns, on a phone three. It is made again only when its own sandbox changes. */
export const Row = memo(
  function Row({ box, at, top, height, leaving, chosen, onChoose, onLabel, acts }: Given): ReactNode {
    const say = useWords(listWords);
    const name = called(box);
    return (
      <tr
        aria-rowindex={at + 2}
        style={{ height, transform: `translateY(${top}px)` }}
        className={cx(
          "absolute inset-x-0 top-0 grid grid-cols-[1fr_auto_2.5rem] items-center gap-3 border-b bg-panel px-4 hover:bg-raised md:grid-cols-[1.5rem_minmax(10rem,2fr)_7rem_minmax(6rem,1fr)_minmax(8rem,2fr)_7.5rem_6.5rem_2.5rem]",
          chosen && "bg-accent-soft",
        )}
      >
        <td className="hidden md:block">
          {chosen === null ? null : (
            <input
              type="checkbox"
              aria-label={say("choose", { name })}
              className="size-4 align-middle accent-accent"
              checked={chosen}
              onChange={() => onChoose(box.id)}
            />
          )}
        </td>
        <td className="min-w-0">
          <Link
            to={`/console/sandboxes/${name}`}
            className={cx("block truncate font-medium hover:underline", leaving && "line-through opacity-70")}
          >
            {name}
          </Link>
          {box.name ? <span className="block truncate font-mono text-xs text-muted">{box.id}</span> : null}
        </td>
        <td>
          <StateBadge state={leaving ? "leaving" : shownState(box)} />
        </td>
        <td className="hidden min-w-0 truncate text-muted md:block" title={box.image}>
          {shortRef(box.image)}
        </td>
        <td className="hidden min-w-0 gap-1 overflow-hidden md:flex">
          {Object.entries(box.labels).map(([key, value]) => (
            <button
              key={key}
              type="button"
              onClick={() => onLabel(`${key}=${value}`)}
              className="max-w-full truncate rounded-md bg-raised px-1.5 py-0.5 text-xs text-muted hover:text-ink"
            >
              {key}={value}
            </button>
          ))}
        </td>
        <td className="hidden truncate text-muted md:block">
          <Moment at={box.created_at} />
        </td>
        <td className="hidden truncate text-muted md:block">
          {box.expires_at ? <Moment at={box.expires_at} /> : say("never")}
        </td>
        <td>{chosen === null ? null : <RowMenu box={box} acts={acts} leaving={leaving} />}</td>
      </tr>
    );
  },
  (before, after) =>
    before.box === after.box &&
    before.top === after.top &&
    before.at === after.at &&
    before.chosen === after.chosen &&
    before.leaving === after.leaving,
);

function RowMenu({ box, acts, leaving }: { box: Sandbox; acts: Acts; leaving: boolean }): ReactNode {
  const say = useWords(listWords);
  const saves = useSavesMemory(box);
  const may = actsOf(box, saves);
  return (
    <Menu
      label={say("actsOf", { name: called(box) })}
      trigger={
        <IconButton label={say("actsOf", { name: called(box) })} disabled={leaving}>
          <EllipsisVertical aria-hidden />
        </IconButton>
      }
      items={[
        {
          label: say(startWord(box)),
          icon: <Play aria-hidden />,
          disabled: !may.start,
          onSelect: () => void acts.do("start", [box]),
        },
        {
          label: say("pause"),
          icon: <Pause aria-hidden />,
          disabled: !may.pause,
          onSelect: () => void acts.do("pause", [box]),
        },
        saves && {
          label: say("hibernate"),
          icon: <Moon aria-hidden />,
          disabled: !may.hibernate,
          onSelect: () => void acts.do("hibernate", [box]),
        },
        {
          label: say("stop"),
          icon: <Square aria-hidden />,
          disabled: !may.stop,
          onSelect: () => void acts.do("stop", [box]),
        },
        "line",
        {
          label: say("delete"),
          icon: <Trash2 aria-hidden />,
          danger: true,
          onSelect: () => acts.remove([box]),
        },
      ]}
    />
  );
}
