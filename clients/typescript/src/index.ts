/** The client of Bay: sandboxes, their commands, files and kernels. */

export type { Admin } from "./admin.js";
export { Attachment, type AttachOptions } from "./attach.js";
export type { Audit, AuditOptions } from "./audit.js";
export { Box, Boxes, type ShellOptions, type TerminalOptions, type WaitOptions } from "./box.js";
export type { BatchOptions, Browser, BrowserOptions } from "./browser.js";
export type { BuildOptions } from "./builds.js";
export type { Source } from "./bytes.js";
export type { Call, CallOptions } from "./call.js";
export type { CargoOptions, Cargos, ListCargosOptions } from "./cargos.js";
export { CellFailed, CellResult, type Image } from "./cells.js";
export type { CheckpointOptions, NewCheckpointOptions, RestoreOptions } from "./checkpoints.js";
export { Client } from "./client.js";
export type { ClientOptions } from "./config.js";
export * from "./errors.js";
export type { EventOptions } from "./events.js";
export { Execs, Proc, type Command, type OutputOptions } from "./execs.js";
export type { ArchiveOptions, Files, ListFilesOptions, MoveOptions, ReadOptions, SearchOptions, WriteOptions } from "./files.js";
export type { AnnotateOptions, HistoryOptions } from "./history.js";
export type { Images, PullOptions } from "./images.js";
export type { KeyOptions, Keys, ListKeysOptions } from "./keys.js";
export { Repl, type Kernels, type Python } from "./kernels.js";
export type { Network } from "./network.js";
export { OutputChunk, type Stream } from "./output.js";
export type { FetchOptions, LinkOptions, Ports } from "./ports.js";
export type { Registries } from "./registries.js";
export type { ListRemoteOptions, PushWaitOptions, RemoteCheckpoints } from "./remote.js";
export { CommandFailed, RunResult } from "./results.js";
export type { Sandboxes } from "./sandboxes.js";
export type { components } from "./schema.js";
export type { Secrets } from "./secrets.js";
export type { Services } from "./services.js";
export type {
  CandidateOptions, CandidatesOptions, DeleteSkillOptions, EvaluateOptions, PayloadOptions, PromoteOptions,
  ReleasesOptions, Skills,
} from "./skills.js";
export type { ListTemplatesOptions, TemplateOptions, Templates, UpdateTemplateOptions } from "./templates.js";
export { Tunnel } from "./tunnel.js";
export type * from "./types.js";
export { VERSION } from "./version.js";
export { Watch } from "./watch.js";
export { verifyWebhook, type VerifyOptions, type Webhooks } from "./webhooks.js";
