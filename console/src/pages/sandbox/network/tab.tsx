/** What a sandbox may reach, and what it tried to reach. */

import { useQuery, useQueryClient } from "@tanstack/react-query";
import type { NetworkMode, NetworkPolicy, NetworkState, Sandbox } from "bay-sandbox";
import { Plus, ShieldAlert, Trash2 } from "lucide-react";
import { type ReactNode, useState } from "react";
import { bay } from "@/bay";
import { bytes, count } from "@/lib/format";
import { useWords } from "@/lib/words";
import { keys } from "@/live";
import { mayWrite, useMe } from "@/sign_in";
import { Badge } from "@/ui/badge";
import { Button, IconButton } from "@/ui/button";
import { Input, Select } from "@/ui/fields";
import { Moment } from "@/ui/moment";
import { Fact, Facts, Panel } from "@/ui/panel";
import { Failed, Loading } from "@/ui/states";
import { tell, tellError } from "@/ui/toasts";
import { type Draft, draft, draftOf, refusedNames, ruleOf } from "./rules";
import { networkWords } from "./words";

/** Traffic is counted and makes no events: it is looked at while it is on the screen. */
const LOOK_MS = 2_000;
const MODES = { open: "open", allowlist: "allowlist", none: "noNetwork" } as const;

export default function NetworkTab({ box }: { box: Sandbox }): ReactNode {
  const policy = useQuery({
    queryKey: keys.of(box.id, "network", "policy"),
    queryFn: async ({ signal }) => (await bay.sandboxes.get(box.id, { signal })).network.get({ signal }),
  });
  const state = useQuery({
    queryKey: keys.of(box.id, "network", "state"),
    queryFn: async ({ signal }) => (await bay.sandboxes.get(box.id, { signal })).network.state({ signal }),
    refetchInterval: box.compute === "running" ? LOOK_MS : false,
  });
  return (
    <div className="grid items-start gap-4 p-4 xl:grid-cols-[3fr_2fr]">
      {policy.error ? <Failed error={policy.error} retry={() => void policy.refetch()} /> : null}
      {policy.data ? (
        // Another version is another form: what was typed into the old one would undo somebody's change.
        <Policy key={`${policy.data.source} ${policy.data.version}`} box={box} policy={policy.data} />
      ) : policy.error ? null : (
        <Loading />
      )}
      <div className="grid gap-4">
        {state.error ? <Failed error={state.error} retry={() => void state.refetch()} /> : null}
        {state.data ? <Traffic box={box} state={state.data} rules={policy.data?.rules ?? []} /> : null}
      </div>
    </div>
  );
}

function Policy({ box, policy }: { box: Sandbox; policy: NetworkPolicy }): ReactNode {
  const say = useWords(networkWords);
  const cache = useQueryClient();
  const writes = mayWrite(useMe());
  const [mode, setMode] = useState<NetworkMode>(policy.mode);
  const [rules, setRules] = useState<Draft[]>(() => policy.rules.map(draftOf));
  const [busy, setBusy] = useState(false);
  const was = JSON.stringify([policy.mode, policy.rules.map(draftOf).map(ruleOf)]);
  const isChanged = JSON.stringify([mode, rules.map(ruleOf)]) !== was;

  const change = (id: number, given: Partial<Draft>): void =>
    setRules((before) => before.map((rule) => (rule.id === id ? { ...rule, ...given } : rule)));
  const send = async (
    work: (network: Awaited<ReturnType<typeof bay.sandboxes.get>>["network"]) => Promise<NetworkPolicy>,
  ): Promise<void> => {
    setBusy(true);
    try {
      const answer = await work((await bay.sandboxes.get(box.id)).network);
      cache.setQueryData(keys.of(box.id, "network", "policy"), answer);
      tell(say("applied"));
    } catch (failure) {
      tellError(failure);
    } finally {
      setBusy(false);
    }
  };

  return (
    <Panel
      title={say("policy")}
      acts={<Badge>{say(policy.source === "profile" ? "ofProfile" : "ofSandbox")}</Badge>}
    >
      {policy.enforced ? null : (
        <p role="alert" className="flex items-center gap-2 bg-warn-soft px-4 py-2.5 text-sm text-warn">
          <ShieldAlert aria-hidden className="size-5 shrink-0" />
          {say("unenforced")}
        </p>
      )}
      <fieldset disabled={!writes || busy} className="grid gap-4 p-4">
        <div className="flex flex-wrap items-center gap-2 text-sm">
          <label htmlFor="network-mode" className="font-medium">
            {say("mode")}
          </label>
          <Select
            id="network-mode"
            className="!w-auto max-w-full"
            value={mode}
            onChange={(event) => setMode(event.target.value as NetworkMode)}
          >
            {Object.entries(MODES).map(([value, name]) => (
              <option key={value} value={value}>
                {say(name)}
              </option>
            ))}
          </Select>
        </div>
        <div>
          <h3 className="mb-2 text-sm font-medium">{say("rules")}</h3>
          {rules.length === 0 ? <p className="text-sm text-muted">{say("noRules")}</p> : null}
          <ul className="grid gap-2">
            {rules.map((rule) => (
              <li
                key={rule.id}
                className="grid grid-cols-[6.5rem_1fr_2.25rem] gap-2 sm:grid-cols-[6.5rem_1fr_9rem_6rem_2.25rem]"
              >
                <Select
                  aria-label={say("action")}
                  value={rule.action}
                  onChange={(event) => change(rule.id, { action: event.target.value as Draft["action"] })}
                >
                  <option value="allow">{say("allow")}</option>
                  <option value="deny">{say("deny")}</option>
                </Select>
                <Input
                  aria-label={say("target")}
                  title={say("targetHint")}
                  placeholder="api.example.com"
                  value={rule.target}
                  onChange={(event) => change(rule.id, { target: event.target.value })}
                  className="font-mono"
                />
                <Input
                  aria-label={say("ports")}
                  title={say("portsHint")}
                  placeholder={say("ports")}
                  value={rule.ports}
                  onChange={(event) => change(rule.id, { ports: event.target.value })}
                  className="col-span-1 font-mono max-sm:order-3 max-sm:col-span-2"
                />
                <Select
                  aria-label={say("protocol")}
                  className="max-sm:order-4"
                  value={rule.protocol}
                  onChange={(event) => change(rule.id, { protocol: event.target.value as Draft["protocol"] })}
                >
                  <option value="">{say("any")}</option>
                  <option value="tcp">TCP</option>
                  <option value="udp">UDP</option>
                  <option value="icmp">ICMP</option>
                </Select>
                <IconButton
                  label={say("remove")}
                  className="max-sm:order-2"
                  onClick={() => setRules((before) => before.filter((one) => one.id !== rule.id))}
                >
                  <Trash2 aria-hidden />
                </IconButton>
                {rule.inject ? (
                  <p className="order-5 col-span-full text-xs text-muted">
                    {say("injects")}: {rule.inject.header}
                  </p>
                ) : null}
              </li>
            ))}
          </ul>
          {writes && mode !== "none" ? (
            <Button
              className="mt-3"
              icon={<Plus aria-hidden />}
              onClick={() => setRules((before) => [...before, draft()])}
            >
              {say("add")}
            </Button>
          ) : null}
        </div>
        {writes ? (
          <div className="flex flex-wrap justify-end gap-2 border-t pt-4">
            {policy.source === "sandbox" ? (
              <Button className="mr-auto" onClick={() => void send((network) => network.reset())}>
                {say("reset")}
              </Button>
            ) : null}
            {isChanged ? (
              <Button
                onClick={() => {
                  setMode(policy.mode);
                  setRules(policy.rules.map(draftOf));
                }}
              >
                {say("discard")}
              </Button>
            ) : null}
            <Button
              kind="primary"
              busy={busy}
              disabled={!isChanged}
              onClick={() =>
                void send((network) => network.set({ mode, rules: mode === "none" ? [] : rules.map(ruleOf) }))
              }
            >
              {say("save")}
            </Button>
          </div>
        ) : null}
      </fieldset>
    </Panel>
  );
}

function Traffic({
  box,
  state,
  rules,
}: {
  box: Sandbox;
  state: NetworkState;
  rules: NetworkPolicy["rules"];
}): ReactNode {
  const say = useWords(networkWords);
  const name = (rule: number | null, reason: string | null): string => {
    const found = rule === null ? undefined : rules[rule];
    if (found) return `${say(found.action)} ${found.domain ?? found.cidr ?? ""}`;
    return reason ?? say("ofMode");
  };
  const tally = (allowed: number, refused: number): ReactNode =>
    allowed + refused === 0 ? (
      <span className="text-muted">–</span>
    ) : (
      <>
        {allowed ? <span className="block">{say("allowedTimes", { number: count(allowed) })}</span> : null}
        {refused ? (
          <span className="block text-bad">{say("refusedTimes", { number: count(refused) })}</span>
        ) : null}
      </>
    );
  const rests = box.compute === "cold" || box.compute === "warming";
  return (
    <>
      <Panel title={say("traffic")}>
        {rests ? (
          <p className="p-4 text-sm text-muted">{say("rests")}</p>
        ) : (
          <>
            <Facts>
              <Fact name={say("received")}>{bytes(state.received_bytes)}</Fact>
              <Fact name={say("sent")}>{bytes(state.sent_bytes)}</Fact>
            </Facts>
            {state.counters.length ? (
              <table className="w-full border-t text-sm">
                <caption className="sr-only">{say("counters")}</caption>
                <thead className="text-left text-xs text-muted">
                  <tr className="[&>th]:px-4 [&>th]:py-2 [&>th]:font-medium">
                    <th>{say("rule")}</th>
                    <th>{say("connections")}</th>
                    <th>{say("names")}</th>
                  </tr>
                </thead>
                <tbody>
                  {state.counters.map((one) => (
                    <tr
                      key={`${one.rule} ${one.reason}`}
                      className="border-t align-top [&>td]:px-4 [&>td]:py-2 [&>td+td]:whitespace-nowrap"
                    >
                      <td className="font-mono text-xs wrap-anywhere">{name(one.rule, one.reason)}</td>
                      <td>{tally(one.allowed_connections, one.refused_connections)}</td>
                      <td>{tally(one.allowed_names, one.refused_names)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            ) : null}
          </>
        )}
      </Panel>
      <Panel title={say("refused")}>
        {state.refused.length === 0 ? <p className="p-4 text-sm text-muted">{say("noRefused")}</p> : null}
        <ul aria-label={say("refused")}>
          {refusedNames(state.refused).map((one) => (
            <li
              key={`${one.name} ${one.reason}`}
              className="flex flex-wrap gap-x-3 border-t px-4 py-2 text-sm first:border-t-0"
            >
              <code className="min-w-0 flex-1 break-all">{one.name}</code>
              <span className="text-muted">{say("times", { count: one.count })}</span>
              <span className="w-full text-xs text-muted">
                {one.types} · {one.reason} · <Moment at={one.last_at} />
              </span>
            </li>
          ))}
        </ul>
      </Panel>
    </>
  );
}
