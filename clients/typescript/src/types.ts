/** The data of Bay, as the wire has it. The shapes are generated from its OpenAPI document. */

import type { CallOptions } from "./call.js";
import type { Camel } from "./names.js";
import type { components } from "./schema.js";

type Schemas = components["schemas"];
/** An answer has every field, null when unset. */
type Answered<Name extends keyof Schemas> = Readonly<Required<Schemas[Name]>>;
/** A request has those that are given. */
type Asked<Name extends keyof Schemas> = Camel<Partial<Schemas[Name]>>;

export type AuditEntry = Answered<"AuditEntry">;
export type BrowserBatch = Answered<"BrowserBatch">;
export type BrowserReplay = Answered<"BrowserReplay">;
export type BrowserResult = Answered<"BrowserResult">;
export type BrowserTrace = Answered<"BrowserTrace">;
export type Cargo = Answered<"Cargo">;
export type Checkpoint = Answered<"Checkpoint">;
export type ConsoleCode = Answered<"ConsoleCode">;
export type ContainerImage = Answered<"ContainerImage">;
export type Event = Answered<"Event">;
/** The type of a stored event, which a webhook may get. */
export type EventType = NonNullable<Schemas["CreateWebhook"]["types"]>[number];
export type Exec = Answered<"Exec">;
export type FileChange = Answered<"FileChange">;
export type FileInfo = Answered<"FileInfo">;
export type GarbageRun = Answered<"GarbageRun">;
export type GarbageState = Answered<"GarbageState">;
export type GarbageTask = GarbageState["tasks"][number];
export type HistoryEntry = Answered<"HistoryEntry">;
export type HostOverview = Answered<"HostOverview">;
export type Kernel = Answered<"Kernel">;
export type KernelSpec = Answered<"KernelSpec">;
export type Key = Answered<"Key">;
export type NetworkPolicy = Answered<"CurrentPolicy">;
export type NetworkState = Answered<"NetworkState">;
/** A key, with its secret. */
export type NewKey = Answered<"NewKey">;
export type PoolState = Answered<"PoolState">;
export type Port = Answered<"Port">;
export type PortLink = Answered<"PortLink">;
export type PortSettings = Answered<"PortSettings">;
export type PreparedSandbox = RestartPreparation["items"][number];
export type Process = Answered<"Process">;
export type Profile = Answered<"ProfileItem">;
export type RegistryLogin = Answered<"RegistryLogin">;
export type RemoteCheckpoint = Answered<"RemoteCheckpoint">;
export type Replica = Answered<"Replica">;
export type ReplicaState = Answered<"ReplicaState">;
export type RestartPreparation = Answered<"RestartPreparation">;
export type Sandbox = Answered<"Sandbox">;
export type SandboxMetrics = Answered<"SandboxMetrics">;
export type SandboxUsage = Answered<"SandboxUsage">;
export type Screen = Answered<"Screen">;
export type SearchResult = Answered<"SearchResult">;
export type Secret = Answered<"Secret">;
export type ServerCapabilities = Answered<"ServerCapabilities">;
export type Service = Answered<"Service">;
export type SettingInForce = Answered<"SettingInForce">;
export type ShellResult = Answered<"ShellResult">;
export type SkillCandidate = Answered<"SkillCandidate">;
export type SkillDeletion = Answered<"SkillDeletion">;
export type SkillEvaluation = Answered<"SkillEvaluation">;
export type SkillHealth = Answered<"SkillHealth">;
export type SkillPayload = Answered<"SkillPayload">;
export type SkillRelease = Answered<"SkillRelease">;
export type Template = Answered<"Template">;
export type Webhook = Answered<"Webhook">;

/** A rule of a network policy, as a request has it. */
export type NetworkRule = Schemas["Rule"];
export type NetworkMode = Schemas["NetworkPolicyBody"]["mode"];
/** A whole network policy, as a request has it. */
export type NetworkPolicySpec = Partial<Schemas["NetworkPolicyBody"]> & { mode: NetworkMode };
/** The definition of a service, with its name. */
export type ServiceSpec = Partial<Schemas["ServiceBody"]> & { name: string; argv: string[] };

type CreateFields = Omit<Asked<"CreateSandbox">, "url" | "secrets" | "services" | "template" | "fromCheckpoint" | "networkPolicy">;

/** The options of `sandboxes.create`; one that is left out is the profile's. */
export interface CreateOptions extends CreateFields, CallOptions {
  /** Which port its URL leads to: a number, or settings that make it public. */
  url?: number | Schemas["PortBody"] | null;
  /** Secrets by name; a text is the variable of that name. */
  secrets?: (string | Schemas["SandboxSecret"])[];
  services?: ServiceSpec[];
  /** One to start from: a template, or its id, `"name"` or `"name:tag"`. */
  template?: string | Template | null;
  fromCheckpoint?: string | Checkpoint | null;
  networkPolicy?: NetworkPolicySpec | null;
  /** How many seconds to wait until the sandbox is ready. */
  wait?: number;
  /** The sandbox that has the `name` already is given as it is. */
  existOk?: boolean;
  /** Has a repeated create give the same sandbox; one is made up for each call unless you name it. */
  idempotencyKey?: string;
}

/** The options of `box.update`; one that is left out stays as it is, and null is a value like any other. */
export interface UpdateOptions extends Omit<Asked<"UpdateSandbox">, "url">, CallOptions {
  url?: number | Schemas["PortBody"] | null;
}

export interface ListOptions extends CallOptions {
  status?: Sandbox["status"];
  compute?: Sandbox["compute"];
  profile?: string;
  namePrefix?: string;
  /** `key:value` */
  label?: string;
  order?: "oldest" | "newest";
  /** How many one request asks for. */
  limit?: number;
}

type ExecFields = Omit<Asked<"CreateExec">, "command" | "argv" | "stdin" | "stdinBase64" | "id">;

/** The options of `box.spawn` beside the command; one that is left out is the server's. */
export interface SpawnOptions extends ExecFields, CallOptions {
  stdin?: string | Uint8Array;
}

/** Which part of too much output is kept: the first bytes, the last ones, or half of each. */
export type Keep = "head" | "tail" | "both";

/** The options of `box.run`. */
export interface RunOptions {
  /** 30 seconds; null is no limit. */
  timeoutS?: number | null;
  /** Absolute, or relative to /workspace. */
  cwd?: string;
  env?: Record<string, string>;
  user?: string;
  /** Text or bytes, of any size. */
  stdin?: string | Uint8Array;
  /** False: its running does not count as activity. */
  keepAlive?: boolean;
  /** Throw CommandFailed when the result is not `ok`. */
  check?: boolean;
  /** 16 MiB; of more the part that `keep` names is kept, and the result is not `ok`. */
  maxOutputBytes?: number;
  keep?: Keep;
  /** Its id, `exec-` and 24 hexadecimal digits, where the caller chooses one. */
  execId?: string;
  /** Ends the command when it aborts. */
  signal?: AbortSignal | undefined;
}

export type KernelOptions = Asked<"CreateKernel"> & CallOptions;
export type ForkOptions = Omit<Asked<"ForkSandbox">, "checkpoint"> & {
  checkpoint?: string | Checkpoint;
} & CallOptions;

/** The options of `box.python.run` beside the code. */
export interface CellOptions extends CallOptions {
  /** 300 seconds of running. */
  timeoutS?: number;
  /** Set while this code runs. */
  env?: Record<string, string>;
  /** Interrupt the code when the connection breaks or the reader leaves. */
  attached?: boolean;
  /** The bundles of figures and tables also have them as data. */
  describe?: boolean;
  /** An id of your own, `cell-` and 24 hex digits, by which `follow` finds it again. */
  id?: string;
}

/** Something that happened to a file that is watched. `overflow`: events were lost, look again. */
export interface FileEvent {
  readonly type: "created" | "modified" | "deleted" | "moved" | "attributes" | "overflow";
  readonly path?: string;
  readonly to?: string;
  readonly is_dir?: boolean;
}

/** Content types, each with text, or base64 for images. */
export type Bundle = Readonly<Record<string, unknown>>;

/** Something that a cell did. Which fields are there beside `seq` follows from `type`; `end` is the last. */
export interface CellEvent {
  readonly seq: number;
  readonly type: "start" | "stdout" | "stderr" | "display" | "clear" | "result" | "error" | "end";
  readonly text?: string | null;
  readonly data?: Bundle | null;
  readonly metadata?: Bundle | null;
  readonly display_id?: string | null;
  readonly update?: boolean | null;
  readonly wait?: boolean | null;
  readonly execution_count?: number | null;
  readonly ename?: string | null;
  readonly evalue?: string | null;
  readonly traceback?: readonly string[] | null;
  readonly status?: "ok" | "error" | "interrupted" | "timeout" | "lost" | null;
  readonly restarted?: boolean | null;
  readonly message?: string | null;
  readonly duration_ms?: number | null;
  readonly truncated?: boolean | null;
}
